"""Options and fixtures that tests of several floors share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from lvlm_atlas import load
from lvlm_atlas.fault import suggestion
from lvlm_atlas.rules.sample import sound, write
from lvlm_atlas.schema.technique import Technique

# The tensors of the tests are tiny: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Catalogs of tests are made, read once and thrown away; those that test snapshots turn them on.
os.environ["LVLM_ATLAS_SNAPSHOT"] = "off"

# Derandomised in CI: a red run is red again, and a green one does not hide that examples differ.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tests that run tensors: cpu or cuda")
    parser.addoption("--technique", metavar="ID", help="only what holds this technique to its entry")
    parser.addoption("--since", metavar="REF", help="run whole pairs of the techniques that changed since a commit")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--technique` only what holds that one to its entry."""
    if id_ := config.getoption("--technique"):
        known = load(Path(__file__).resolve().parents[1]).atlas.techniques
        if id_ not in known:
            raise pytest.UsageError(f"--technique: no technique {id_!r}; {suggestion(id_, known)}")
        kept = [item for item in items if concerns(item, known[id_])]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def concerns(item: pytest.Item, technique: Technique) -> bool:
    """Whether a test is about a technique: its own file, a parameter that is or holds it, or the catalog as a whole."""
    if item.get_closest_marker("browser"):
        return False
    if item.get_closest_marker("catalog") or item.path.name == f"test_{technique.id.replace('-', '_')}.py":
        return True
    parameters = getattr(item, "callspec", None)
    return parameters is not None and any(is_or_holds(value, technique.id) for value in parameters.params.values())


def is_or_holds(value: object, id_: str) -> bool:
    if isinstance(value, tuple | list):
        return any(is_or_holds(each, id_) for each in value)
    return id_ in (value, getattr(value, "id", None))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where tensors live; a missing GPU skips the test, visibly."""
    import torch

    name: str = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return name


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The checkout: the root of the real atlas."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the real atlas in `site`, its Markdown in `docs`: built once, whichever test process asks first.

    It answers fewer requests than the published one, whose answers take longer than all else of a build.
    """
    from lvlm_atlas.site.build import build

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "built"
    finished = folder / "finished"
    try:
        folder.mkdir()
    except FileExistsError:
        while not finished.exists():
            time.sleep(0.2)  # the test's own time limit ends this
    else:
        asked = folder / "answers.yaml"
        asked.write_text("devices: [l40s, h200-sxm]\nworkloads: [images-20, video-60s]\n", encoding="utf-8")
        try:
            build(load(checkout), folder / "site", docs=folder / "docs", answers=asked)
        finally:
            finished.touch()
    if not (folder / "site").exists():
        pytest.fail("the site does not build; the test process that tried says why")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Root of a small sound atlas of two made-up techniques, alone in its folder."""
    return write(sound(), tmp_path / "atlas")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Programs that the test starts hear SIGINT, also where the tests were started with it ignored (`&`, nohup)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
