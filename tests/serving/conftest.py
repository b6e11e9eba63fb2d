"""The real catalog, and times of its models under load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.specs.stack import stacked


@pytest.fixture(scope="session")
def planner(checkout: Path) -> Planner:
    """Models, devices, workloads and techniques of the checkout."""
    return Planner(checkout)


@pytest.fixture(scope="session")
def prices(planner: Planner):
    """Prices of a model on an H100, made once for each choice."""
    made: dict[Any, Prices] = {}

    def find(
        model: str = "qwen2.5-vl-7b", stack: str = "", efficiency: Any = TYPICAL, workload: str = "single-image-chat",
        *, encoder_data_parallel: bool = False, **deployment: Any,
    ) -> Prices:  # fmt: skip
        key = (model, stack, efficiency.name, workload, encoder_data_parallel, *sorted(deployment.items()))
        if key not in made:
            spec, request = planner.model(model), planner.workload(workload)
            applied = stacked(planner.kb, stack, spec, request) if stack else ()
            made[key] = Prices(
                spec, planner.device("h100-sxm"), Deployment(efficiency=efficiency, **deployment), lambda _: applied,
                encoder_data_parallel=encoder_data_parallel,
            )  # fmt: skip
        return made[key]

    return find
