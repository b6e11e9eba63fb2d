"""Picks that follow one another start kernels, which cost what the host takes to start them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.costs import Costs
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.host import LAYER_KERNELS
from lvlm_atlas.specs.stack import stacked

CAPTION = {"image": "336x336", "text": 60, "output": 64}
PICKS = 56
"""Tokens that DivPrune keeps of the 576 of LLaVA-1.5 by default."""


def of(planner: Planner, stack: str, runtime: str | None, model: str = "llava-1.5-7b") -> Estimate:
    """A caption by LLaVA-1.5 on an A100."""
    return planner.estimate(model, "a100", planner.request(**CAPTION), stack=stack, runtime=runtime)


def gain(planner: Planner, stack: str, runtime: str | None) -> float:
    """How much sooner the first token is there."""
    return of(planner, "", runtime).ttft_s / of(planner, stack, runtime).ttft_s


def test_divprune_gains_less_than_fastv_on_llava_1_5_where_python_starts_each_kernel(planner: Planner) -> None:
    """A user timed captions on LLaVA-1.5-7B: 2.24 s plain, 2.11 s with FastV, 2.33 s with DivPrune
    (Theia-4869/CDPruner#1). Bytes and FLOPs alone say the contrary, and so does a bound.
    """
    assert gain(planner, "divprune", "transformers") < gain(planner, "fastv", "transformers")
    assert gain(planner, "divprune", None) > gain(planner, "fastv", None)


def test_divprune_takes_longer_than_nothing_on_llava_next_where_many_tokens_stay(planner: Planner) -> None:
    """The same user timed LLaVA-1.6-7B: 4.24 s plain, 3.77 s with FastV, 5.00 s with DivPrune, and named no budget. At
    the 640 of 2,880 tokens that papers compare at, 3,840 kernels wait for Python.
    """
    request = planner.request(image="672x672", text=60, output=64)

    def total_s(stack: str) -> float:
        return planner.estimate("llava-next-7b-vicuna", "a100", request, stack=stack, runtime="transformers").total_s

    plain = total_s("")
    assert total_s("fastv:keep_ratio=0.2222") < plain < total_s("divprune:ratio=0.2222")


def test_it_is_the_picks_that_turn_it_round(planner: Planner) -> None:
    """Six kernels a pick, each at a layer's host time over its kernels, while the device waits."""
    runtime = planner.runtime("transformers")
    found = of(planner, "divprune", "transformers")
    hosts = [each for each in found.stages["prefilling"].operators if each.work.name.startswith("technique: ")
             and each.work.kind == "host"]  # fmt: skip
    assert [each.time_s for each in hosts] == pytest.approx([6 * PICKS * runtime.host.layer_s / LAYER_KERNELS])
    free = replace(runtime, host=replace(runtime.host, layer_s=0.0))
    request = planner.request(**CAPTION)
    first = {
        stack: planner.estimate("llava-1.5-7b", "a100", request, stack=stack, runtime=free).ttft_s
        for stack in ("divprune", "fastv")
    }
    assert first["divprune"] < first["fastv"]


def test_kernels_from_a_graph_take_no_time_of_the_host(planner: Planner) -> None:
    names = [each.work.kind for each in of(planner, "divprune", "vllm").stages["prefilling"].operators
             if each.work.name.startswith("technique: ")]  # fmt: skip
    assert names == ["technique"]


@pytest.mark.parametrize("stack", ["divprune", "cdpruner", "divprune+kivi", "h2o"])
def test_a_search_reckons_with_the_same_times(planner: Planner, stack: str) -> None:
    model, device, request = planner.model("llava-1.5-7b"), planner.device("a100"), planner.request(**CAPTION)
    techniques = stacked(planner.kb, stack, model, request)
    deployment = Deployment(runtime=planner.runtime("transformers"))
    in_order = sorted(techniques, key=lambda each: each.order)
    cost = Costs(model, device, request, deployment, in_order).of((1 << len(in_order)) - 1)
    found = of(planner, stack, "transformers")
    assert (cost.ttft_s, cost.total_s) == pytest.approx((found.ttft_s, found.total_s), rel=1e-9)
