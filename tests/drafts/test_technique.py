"""A drafted reference runs: it changes nothing where it can pass things on, and says what is missing elsewhere."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.drafts.points import extension_points
from lvlm_atlas.drafts.technique import scaffold
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.points import POINTS

PASSING = [position for position, point in extension_points().items() if point.passes_on]
MAKING = [position for position, point in extension_points().items() if not point.passes_on]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(data_root() / "taxonomy", tmp_path / "taxonomy")
    shutil.copy(data_root() / "papers.bib", tmp_path)
    (tmp_path / "src" / "lvlm_atlas").mkdir(parents=True)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_draft_stays_imported() -> Iterator[None]:
    yield
    sys.modules.pop("drafted", None)


def drafted(root: Path, *positions: str) -> ModuleType:
    """The module of a new technique at these positions."""
    _, reference, _ = scaffold(
        root, "my-method", family="token-compression", acts_at=positions, paper="chen2024fastv", name="Mine"
    )
    spec = importlib.util.spec_from_file_location("drafted", root / reference)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_extension_point_of_the_reference_can_be_drafted() -> None:
    assert list(extension_points()) == list(POINTS)


@pytest.mark.parametrize("positions", [*((position,) for position in PASSING), tuple(PASSING)], ids="+".join)
def test_a_draft_that_passes_on_what_it_is_given_changes_nothing(
    root: Path, device: str, positions: tuple[str, ...]
) -> None:
    technique = drafted(root, *positions).Mine()
    assert technique.acts_at == tuple(p for p in POINTS if p in positions)
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [technique])
    assert plain.tokens_N.tolist() == same.tokens_N.tolist()
    torch.testing.assert_close(plain.logits_NC, same.logits_NC)


@pytest.mark.parametrize("position", MAKING)
def test_a_draft_that_must_make_something_says_so(root: Path, device: str, position: str) -> None:
    technique = drafted(root, position).Mine()
    assert technique.acts_at == (position,)
    lvlm = LVLM.random(device=device)
    with pytest.raises(NotImplementedError, match="FILL IN"):
        lvlm.run(random_request(lvlm.config), [technique])
