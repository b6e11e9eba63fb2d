"""The planner of the real catalog, made once."""

from __future__ import annotations

import pytest

from lvlm_atlas.planner.planner import Planner


@pytest.fixture(scope="session")
def planner() -> Planner:
    return Planner()
