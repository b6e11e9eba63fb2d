"""Techniques under load: each request gets those that take what it brings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.serving.load import load, objective
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.serving.simulation import simulate
from lvlm_atlas.serving.stacks import Stacks
from lvlm_atlas.serving.traffic import Kind, Mix, synthetic
from servers import ALL, server


@pytest.fixture(scope="module")
def kinds(planner):
    """A request with images, and one of text alone."""
    photo = planner.workload("single-image-chat")
    return photo, replace(photo, images=(), text_tokens=1500)


def test_a_request_gets_the_techniques_that_take_it(planner, kinds) -> None:
    photo, text = kinds
    stacks = Stacks(planner.kb, "fastv+kivi", planner.model("qwen2.5-vl-7b"), kinds)
    assert [each.id for each in stacks(photo)] == ["fastv", "kivi"]
    assert {each.id for each in stacks(text)} <= {"kivi"}
    assert len(stacks.labels) == 2


@pytest.mark.parametrize(
    ("stack", "said"),
    [
        ("fastv+nothing", "no technique 'nothing'"),
        ("visionzip", "visionzip needs `cls-token`"),
        ("fastv+fastv", "the stack has fastv twice"),
    ],
)
def test_a_stack_that_is_none_is_refused_before_anything_runs(planner, kinds, stack: str, said: str) -> None:
    with pytest.raises(AtlasError) as refused:
        Stacks(planner.kb, stack, planner.model("qwen2.5-vl-7b"), kinds)
    assert said in str(refused.value)


def test_a_smaller_cache_lets_more_requests_in(planner, prices) -> None:
    """Two bits for sixteen: where the cache is what is short, fewer requests give way and all are answered sooner."""
    long = planner.request("single-image-chat", output=600)
    mix, model = Mix((Kind(long, 1),)), planner.model("qwen2.5-vl-7b")
    runs = {}
    for stack in ("none", "kivi"):
        priced = Prices(model, planner.device("l4"), prices().deployment, Stacks(planner.kb, stack, model, [long]))
        runs[stack] = simulate(server((ALL, 1)), priced, synthetic(mix, 100.0, 60))
    plain, small = runs["none"].tally, runs["kivi"].tally
    assert plain.preemptions > small.preemptions
    assert small.last_s < 0.8 * plain.last_s


def test_counts_within_limits_are_those_that_keep_all_of_them(planner, prices) -> None:
    mix = Mix((Kind(planner.workload("single-image-chat"), 1),), spread=0.5)
    run = simulate(server((ALL, 1)), prices(), synthetic(mix, 9.0, 200))
    limits = {"ttft": 0.1, "tpot": 0.014}
    kept = sum(
        ttft <= limits["ttft"] and tpot <= limits["tpot"]
        for ttft, tpot in zip(run.tally.ttft_s, run.tally.tpot_s, strict=True)
    )
    found = load(run, slo=objective(limits), devices=1, tdp_w=700, price_usd_h=3.6)
    assert 0 < kept < 200
    assert (found.attained, found.attainment) == (kept, kept / 200)
    assert found.goodput == pytest.approx(kept / found.duration_s)
    assert found.cost_usd == pytest.approx(3.6 * found.duration_s / 3600 / kept)
    assert found.energy_j_token == pytest.approx(700 * found.duration_s / sum(run.tally.output))
    assert found.ttft.p50 <= found.ttft.p90 <= found.ttft.p99 == sorted(run.tally.ttft_s)[197]
    with pytest.raises(AtlasError, match="--slo memory"):
        objective({"memory": 1})
