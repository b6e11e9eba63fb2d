"""The real catalog, for tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvlm_atlas.planner.planner import Planner


@pytest.fixture(scope="session")
def planner(checkout: Path) -> Planner:
    """Models, devices, workloads and techniques of the checkout."""
    return Planner(checkout)
