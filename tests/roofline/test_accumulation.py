"""Sums in FP16 have peaks of their own where a device does them faster."""

from __future__ import annotations

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.workload import Workload

LONG = Workload(text_tokens=4000, output_tokens=2)


def of(planner: Planner, device: str, activation_dtype: str) -> Estimate:
    """The estimate of a long prompt with activations of this type."""
    deployment = Deployment(weight_dtype="fp8", activation_dtype=activation_dtype)
    return planner.estimate("qwen2.5-vl-7b", device, LONG, deployment=deployment)


@pytest.mark.parametrize("device", ["rtx-3090", "rtx-4090", "rtx-5090"])
def test_geforce_sums_in_fp16_twice_as_fast(planner: Planner, device: str) -> None:
    exact, fast = of(planner, device, "fp16"), of(planner, device, "fp16-acc16")
    assert 1.7 < exact.ttft_s / fast.ttft_s <= 2.01
    assert exact.memory == fast.memory
    assert any("--activation-dtype fp16-acc16" in each for each in exact.assumptions)
    assert not any("--activation-dtype" in each for each in fast.assumptions)


def test_a_device_without_a_faster_rate_says_which_types_it_has(planner: Planner) -> None:
    with pytest.raises(AtlasError, match="no peak for activations of type fp16-acc16; give one of fp32"):
        of(planner, "rtx-a6000", "fp16-acc16")


def test_weights_and_caches_are_of_no_such_type(planner: Planner) -> None:
    for field in ("weight_dtype", "kv_dtype"):
        with pytest.raises(AtlasError, match=f"{field} is 'fp16-acc16'; give a type such as bf16"):
            planner.estimate("qwen2.5-vl-7b", "rtx-4090", LONG, deployment=Deployment(**{field: "fp16-acc16"}))
