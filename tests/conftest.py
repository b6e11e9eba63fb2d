"""Fixtures and options that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Derandomised: a red run is red again; differing examples would make a failure come and go.
settings.register_profile("atlas", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "atlas"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the tests that run tensors: cpu or cuda")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where tensors live; a missing GPU skips the test, visibly."""
    name: str = request.config.getoption("--device")
    torch = pytest.importorskip("torch")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return name


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
