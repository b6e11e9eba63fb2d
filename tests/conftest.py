"""Options and fixtures that tests of several floors share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from lvlm_atlas.rules.sample import sound, write

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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Root of a small sound atlas of two made-up techniques, alone in its folder."""
    return write(sound(), tmp_path / "atlas")
