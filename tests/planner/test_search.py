"""The search finds every stack, and costs are those of estimates made one by one."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.planner.front import dominates
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.planning import Planning
from lvlm_atlas.planner.risk import RISKS, UNKNOWN, risk
from lvlm_atlas.planner.search import Search, candidate
from lvlm_atlas.roofline.costs import Costs
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.roofline.estimate import estimate
from lvlm_atlas.specs.stack import Choice
from lvlm_atlas.specs.technique import applied

_spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).parents[1] / "synthetic.py")
assert _spec is not None
assert _spec.loader is not None
made_up: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_up)

CASES = (
    ("qwen2.5-vl-7b", "images-20", Deployment()),
    ("gemma-3-12b", "multi-turn", Deployment(efficiency=TYPICAL)),
    ("deepseek-vl2-tiny", "single-image-chat", Deployment(tensor_parallel=2)),
    ("llama-3.2-11b-vision", "batch-captioning", Deployment(attention="materialised")),
    ("qwen2.5-vl-7b", "video-60s", Deployment(tensor_parallel=2, pipeline_parallel=2, kv_dtype="fp8")),
)
PLANNER = Planner()

made = st.lists(
    st.tuples(st.sampled_from(made_up.SHAPES), st.floats(0.05, 0.95), st.integers(0, 11)), min_size=1, max_size=6
).map(
    lambda shapes: [
        made_up.synthetic(PLANNER.kb.atlas.techniques["fastv"], f"made-{i}", *shape) for i, shape in enumerate(shapes)
    ]
)


def close(one: float, two: float) -> bool:
    return one == pytest.approx(two, rel=1e-9, abs=1e-15)


def same(costs: Costs, stack: int, found: Any) -> bool:
    cost = costs.of(stack)
    stages = [found.stages[name].time_s for name in ("encoding", "prefilling", "decoding")]
    told = [*stages, found.ttft_s, found.tpot_s, found.total_s, found.memory.device_byte]
    got = [
        cost.encoding_s, cost.prefilling_s, cost.decoding_s, cost.ttft_s, cost.tpot_s, cost.total_s, cost.device_byte,
    ]  # fmt: skip
    return all(map(close, got, told))


@settings(max_examples=40)
@given(made, st.sampled_from(CASES), st.randoms(use_true_random=False))
def test_the_costs_of_a_stack_are_those_of_its_estimate(techniques: Sequence[Any], case: Any, draw: Any) -> None:
    model, device = PLANNER.model(case[0]), PLANNER.device("h200")
    workload, deployment = PLANNER.workload(case[1]), case[2]
    kb = made_up.base_of(PLANNER.kb.atlas, techniques)
    ready = sorted((applied(kb.atlas, each) for each in techniques), key=lambda each: (each.order, each.id))
    costs = Costs(model, device, workload, deployment, ready)
    stacks = [*range(1 << len(ready))]
    draw.shuffle(stacks)  # what is remembered must not depend on what came first
    for stack in stacks[:12]:
        chosen = [each for i, each in enumerate(ready) if stack >> i & 1]
        assert same(costs, stack, estimate(model, device, workload, deployment, chosen)), [each.id for each in chosen]


@pytest.mark.parametrize("case", CASES)
def test_the_costs_of_the_catalogs_stacks_are_those_of_their_estimates(case: Any) -> None:
    model, device, workload = PLANNER.model(case[0]), PLANNER.device("h200"), PLANNER.workload(case[1])
    atlas = PLANNER.kb.atlas
    ready = sorted((applied(atlas, each) for each in atlas.techniques.values()), key=lambda each: (each.order, each.id))
    costs = Costs(model, device, workload, case[2], ready)
    for count in range(3):
        for chosen in combinations(range(len(ready)), count):
            stack = sum(1 << i for i in chosen)
            assert same(costs, stack, estimate(model, device, workload, case[2], [ready[i] for i in chosen]))


@settings(max_examples=30)
@given(made, st.sampled_from(CASES))
def test_no_stack_costs_less_than_its_floor(techniques: Sequence[Any], case: Any) -> None:
    kb = made_up.base_of(PLANNER.kb.atlas, techniques)
    ready = sorted((applied(kb.atlas, each) for each in techniques), key=lambda each: (each.order, each.id))
    costs = Costs(PLANNER.model(case[0]), PLANNER.device("h200"), PLANNER.workload(case[1]), case[2], ready)
    for stack in range(1 << len(ready)):
        least, cost = costs.floor(stack, memory=True), costs.of(stack)
        for field in ("encoding_s", "prefilling_s", "decoding_s", "ttft_s", "tpot_s", "total_s", "device_byte"):
            assert getattr(least, field) <= getattr(cost, field) * (1 + 1e-12)


def naive(kb: Any, techniques: Sequence[Any], most: int, worst: int) -> dict[frozenset[str], int]:
    """Every stack without a conflict, with its risk: all subsets, tested one by one."""
    found = {}
    for count in range(most + 1):
        for chosen in combinations(techniques, count):
            verdicts = [kb.relation(a.id, b.id).value for a, b in combinations(chosen, 2)]
            at = max([risk(each) for each in chosen] + [UNKNOWN] * ("unknown" in verdicts), default=0)
            if "breaks" not in verdicts and at <= worst:
                found[frozenset(each.id for each in chosen)] = at
    return found


@settings(max_examples=30)
@given(made, st.integers(1, 4), st.sampled_from(RISKS))
def test_the_search_finds_each_stack_that_naive_enumeration_finds_and_once(
    techniques: Sequence[Any], most: int, worst: str
) -> None:
    kb = made_up.base_of(PLANNER.kb.atlas, techniques)
    ready = sorted((candidate(kb, Choice(each)) for each in techniques), key=lambda each: each.applied.order)
    found = [*Search(kb, ready).stacks(most, RISKS.index(worst))]
    by_ids = {
        frozenset(each.applied.id for i, each in enumerate(ready) if one.stack >> i & 1): one.risk for one in found
    }
    assert len(by_ids) == len(found)
    assert by_ids == naive(kb, techniques, most, RISKS.index(worst))


def test_the_search_of_the_catalog_finds_what_naive_enumeration_finds() -> None:
    kb, model, workload = PLANNER.kb, PLANNER.model("llava-1.5-7b"), PLANNER.workload("images-20")
    baseline = PLANNER.estimate(model, "h200", workload)
    planning = Planning(
        kb, baseline, "total", slo={}, training=None, most=3, require=None, exclude=None, worst="unknown", also=(),
        tried=(), mild=False,
    )  # fmt: skip
    plan = planning.plan()
    searched = [each.choice.technique for each in planning.candidates]
    assert plan.searched == len(naive(kb, searched, 3, UNKNOWN))


@settings(max_examples=20)
@given(made, st.sampled_from(["ttft", "tpot", "total", "memory"]))
def test_the_plans_front_is_that_of_all_stacks_compared_with_each_other(techniques: Sequence[Any], goal: str) -> None:
    planner = Planner(kb=made_up.base_of(PLANNER.kb.atlas, techniques))
    baseline = planner.estimate("qwen2.5-vl-7b", "h200", "images-20")
    planning = Planning(
        planner.kb, baseline, goal, slo={}, training=None, most=3, require=None, exclude=None, worst="unknown",
        also=(), tried=(), mild=False,
    )  # fmt: skip
    plan = planning.plan()
    found = [*planning.search.stacks(3, UNKNOWN)]
    points = {each.stack: planning._point(each, planning.costs.of(each.stack)) for each in found}
    best = {
        point for point in points.values() if not any(other != point and dominates(other, point)
                                                      for other in points.values())
    }  # fmt: skip
    labels = {planning._label(each): points[each.stack] for each in found}
    assert {labels[option.label] for option in plan.front} | {points[0]} == best | {points[0]}


def test_the_preset_typical_stands_for_what_was_found_on_the_device() -> None:
    model, device, workload = PLANNER.model("qwen2.5-vl-7b"), PLANNER.device("h100"), PLANNER.workload("images-20")
    typical = Deployment(efficiency=TYPICAL)
    assert device.typical != TYPICAL
    costs = Costs(model, device, workload, typical, ())
    assert costs.of(0).ttft_s == pytest.approx(estimate(model, device, workload, typical).ttft_s)
