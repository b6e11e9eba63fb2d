"""What is left of a server's attainment when load and devices grow alike."""

from __future__ import annotations

from dataclasses import replace

from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.serving.scenario import Scenario
from lvlm_atlas.serving.traffic import Kind, Mix, synthetic
from servers import ALL, server


def test_twice_the_load_on_twice_the_devices_keeps_limits_better(planner, prices) -> None:
    mix = Mix((Kind(planner.workload("single-image-chat"), 1),), spread=0.5)
    one = Scenario(
        model=planner.model("qwen2.5-vl-7b"), device=planner.device("h100-sxm"),
        deployment=Deployment(efficiency=TYPICAL), policy=server((ALL, 1)), slo={"ttft": 0.12}, concurrency=3,
    )  # fmt: skip
    two = one.grown(2)
    assert (two.devices, two.concurrency) == (2, 6)
    first, later = (
        replace(each, concurrency=None).run(synthetic(mix, rate, number), prices())[0].attainment
        for each, rate, number in ((one, 8.0, 300), (two, 16.0, 600))
    )
    assert 0 < first < later < 1, "a request goes to the device with least to do"
