"""The search finds every stack, and costs are those of estimates made one by one."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.graph.results import results_of
from lvlm_atlas.planner.front import dominates, steps
from lvlm_atlas.planner.metric import METRICS
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.ranking import Ranking
from lvlm_atlas.planner.risk import RISKS, UNKNOWN, risk
from lvlm_atlas.planner.search import Search, candidate
from lvlm_atlas.planner.stack_risk import StackRisk
from lvlm_atlas.planner.warnings import vision_left
from lvlm_atlas.roofline.costs import FIGURES, Cost, Costs
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.roofline.estimate import estimate
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.stack import Choice
from lvlm_atlas.specs.technique import applied

_spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).parents[1] / "synthetic.py")
assert _spec is not None
assert _spec.loader is not None
made_up: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made_up)

PLANNER = Planner()
CASES = (
    ("qwen2.5-vl-7b", "images-20", Deployment()),
    ("gemma-3-12b", "multi-turn", Deployment(efficiency=TYPICAL)),
    ("deepseek-vl2-tiny", "single-image-chat", Deployment(tensor_parallel=2)),
    ("llama-3.2-11b-vision", "batch-captioning", Deployment(attention="materialised")),
    ("qwen2.5-vl-7b", "video-60s", Deployment(tensor_parallel=2, pipeline_parallel=2, kv_dtype="fp8")),
    ("qwen2.5-vl-7b", "multi-turn", Deployment(runtime=PLANNER.runtime("transformers"))),
    ("qwen2.5-vl-7b", "images-20", Deployment(tensor_parallel=2, weight_dtype="int4", runtime=PLANNER.runtime("vllm"))),
)

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
    told = [*stages, found.ttft_s, found.tpot_s, found.total_s, found.memory.device_byte, found.request_share]
    got = [
        cost.encoding_s, cost.prefilling_s, cost.decoding_s, cost.ttft_s, cost.tpot_s, cost.total_s, cost.device_byte,
        cost.request_share,
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
    pairs = random.Random(len(ready)).sample([*combinations(range(len(ready)), 2)], 400)  # noqa: S311
    for chosen in ((), *((i,) for i in range(len(ready))), *pairs):
        stack = sum(1 << i for i in chosen)
        assert same(costs, stack, estimate(model, device, workload, case[2], [ready[i] for i in chosen]))


@pytest.mark.parametrize("case", CASES)
def test_the_costs_on_another_device_are_those_of_its_estimates(case: Any) -> None:
    model, workload = PLANNER.model(case[0]), PLANNER.workload(case[1])
    atlas = PLANNER.kb.atlas
    ready = sorted((applied(atlas, each) for each in atlas.techniques.values()), key=lambda each: (each.order, each.id))
    first = Costs(model, PLANNER.device("h200"), workload, case[2], ready)
    first.of(1)
    for name in ("h100", "b200"):
        device = PLANNER.device(name)
        costs = first.on(device)
        for index, technique in enumerate(ready):
            assert same(costs, 1 << index, estimate(model, device, workload, case[2], [technique]))


@settings(max_examples=30)
@given(made, st.sampled_from(CASES))
def test_no_stack_costs_less_than_its_floors(techniques: Sequence[Any], case: Any) -> None:
    kb = made_up.base_of(PLANNER.kb.atlas, techniques)
    ready = sorted((applied(kb.atlas, each) for each in techniques), key=lambda each: (each.order, each.id))
    costs = Costs(PLANNER.model(case[0]), PLANNER.device("h200"), PLANNER.workload(case[1]), case[2], ready)
    for stack in range(1 << len(ready)):
        cost = costs.of(stack)
        for figure in FIGURES:
            rough, least = (getattr(costs.floor(stack, (figure,), rough=rough), figure) for rough in (True, False))
            assert rough <= least * (1 + 1e-12)
            assert least <= getattr(cost, figure) * (1 + 1e-12)


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
        frozenset(each.applied.id for i, each in enumerate(ready) if one.bits >> i & 1): one.risk for one in found
    }
    assert len(by_ids) == len(found)
    assert by_ids == naive(kb, techniques, most, RISKS.index(worst))


def test_the_search_of_the_catalog_finds_what_naive_enumeration_finds() -> None:
    kb = PLANNER.kb
    plan = PLANNER.plan("llava-1.5-7b", "h200", "images-20", goal="total")
    left_out = {each.what for each in plan.left_out}
    searched = [each for each in kb.atlas.techniques.values() if each.id not in left_out]
    assert plan.searched == len(naive(kb, searched, 3, UNKNOWN))


def compared(planner: Planner, case: Any, goal: str, also: Sequence[str], slo: Mapping[str, float]) -> Any:
    """What a plan says, by brute force: every stack estimated by itself, and all compared with each other.

    Returns the labels of the front in order, and by technique the label of the best stack that has it.
    """
    model, device, workload = planner.model(case[0]), planner.device("h200"), planner.workload(case[1])
    kb, deployment = planner.kb, case[2]
    ready = [candidate(kb, Choice(each)) for each in kb.atlas.techniques.values() if not problem(each, model, workload)]
    ready.sort(key=lambda each: (each.applied.order, each.id))
    risks = naive(kb, [each.choice.technique for each in ready], 3, UNKNOWN)
    base = estimate(model, device, workload, deployment)
    rows = []
    for count in range(4):
        for chosen in combinations(range(len(ready)), count):
            ids = frozenset(ready[i].id for i in chosen)
            if ids not in risks:
                continue
            found = estimate(model, device, workload, deployment, [ready[i].applied for i in chosen])
            value = {name: METRICS[name].of(found) for name in (goal, *also, *slo, "total", "memory")}
            excess = max([0, *(steps(value[name], most) for name, most in slo.items())])
            changes = [steps(value[name], METRICS[name].of(base)) for name in (goal, *also)]
            tried = [each.share_kept for i in chosen for each in results_of(kb.atlas, ready[i].choice.technique)]
            least = min((share for share in tried if share), default=0)
            at = UNKNOWN if vision_left(base, found) < 0.9 * least else risks[ids]
            point = (excess, *changes, at, count)
            bits = sum(1 << i for i in chosen)
            rank = (changes[0], at, count, value[goal], value["total"], bits)
            if found.fits:
                met = all(value[name] <= most for name, most in slo.items())
                label = " + ".join(ready[i].applied.label for i in chosen)
                rows.append((point, rank, (excess, float(f"{value[goal]:.9g}"), *rank), met, label, ids))
    eligible = [row for row in rows if row[3]] or rows
    front = [
        row for row in eligible
        if not any(dominates(other[0], row[0]) and (other[0] != row[0] or other[1][3:] < row[1][3:])
                   for other in eligible)
    ]  # fmt: skip
    front.sort(key=lambda row: row[2])
    best = {each.id: min((row for row in rows if each.id in row[5]), key=lambda row: row[1])[4] for each in ready}
    return [row[4] for row in front if row[4]], best


LIMITS: tuple[Mapping[str, float], ...] = ({}, {"ttft": 0.3}, {"memory": 20.0, "total": 1.0})


@settings(max_examples=60)
@given(
    made,
    st.sampled_from([case for case in CASES if case[0] != "gemma-3-12b"]),
    st.sampled_from(sorted(METRICS)),
    st.lists(st.sampled_from(sorted(METRICS)), max_size=2, unique=True),
    st.sampled_from(LIMITS),
)
def test_a_plan_is_what_brute_force_over_all_stacks_finds(
    techniques: Sequence[Any], case: Any, goal: str, also: Sequence[str], slo: Mapping[str, float]
) -> None:
    planner = Planner(kb=made_up.base_of(PLANNER.kb.atlas, techniques))
    case = (case[0], case[1], replace(case[2], price_usd_h=2.5))
    plan = planner.plan(*case[:1], "h200", case[1], goal=goal, also=also, slo=slo, deployment=case[2])
    front, best = compared(planner, case, goal, also, slo)
    assert [option.label for option in plan.front] == front
    for lost in plan.unused:
        if "at best " in lost.why:
            assert lost.why.startswith(f"at best {best[lost.what]}, ")
        elif lost.kind in ("dominated", "limit"):
            assert best[lost.what] == lost.what


class Counted(Costs):
    """Costs that count how many stacks were worked out in full."""

    exact = 0

    def of(self, stack: int) -> Cost:
        self.exact += 1
        return super().of(stack)


@pytest.mark.parametrize("goal", sorted(METRICS))
def test_where_the_request_alone_does_not_fit_the_stacks_that_do_are_ranked_and_others_not_worked_out(
    goal: str,
) -> None:
    kb = made_up.varied(PLANNER.kb.atlas, 16)
    ready = sorted(
        (candidate(kb, Choice(each)) for each in kb.atlas.techniques.values()), key=lambda each: each.applied.order
    )
    stacks = [*Search(kb, ready).stacks(2, UNKNOWN)]
    device, deployment = PLANNER.device("h200"), Deployment(price_usd_h=2.5)

    def ranking(memory_byte: float) -> tuple[Ranking, Counted]:
        small = replace(device, memory_byte=memory_byte)
        model, workload = PLANNER.model("qwen2.5-vl-7b"), PLANNER.workload("images-20")
        costs = Counted(model, small, workload, deployment, [each.applied for each in ready])
        baseline = estimate(model, small, workload, deployment)
        return Ranking(costs, baseline, METRICS[goal], (), {}, stacks, StackRisk.among(kb, ready, costs)), costs

    _, costs = ranking(device.memory_byte)
    held = sorted({costs.of(stack.bits).device_byte for stack in stacks})
    some, costs = ranking((held[0] + costs.of(0).device_byte) / 2 / deployment.memory_share)
    fitting = [stack for stack in stacks if some.fits(costs.of(stack.bits))]
    assert 0 < len(fitting) < len(stacks)
    assert not some.fits(some.base)
    assert {*some.front()} <= {*fitting}
    assert some.front()[0] == min(fitting, key=some.rank)
    none, costs = ranking(costs.floor(0, ("device_byte",), rough=True).device_byte / 2)
    costs.exact = 0
    assert not none.front()
    assert not costs.exact


@pytest.mark.parametrize("goal", sorted(METRICS))
def test_a_ranking_works_out_few_of_its_stacks_in_full(goal: str) -> None:
    kb = made_up.varied(PLANNER.kb.atlas, 30)
    ready = sorted(
        (candidate(kb, Choice(each)) for each in kb.atlas.techniques.values()), key=lambda each: each.applied.order
    )
    deployment = Deployment(price_usd_h=2.5)
    baseline = PLANNER.estimate("qwen2.5-vl-7b", "h200", "images-20", deployment=deployment)
    costs = Counted(
        baseline.model, baseline.device, baseline.workload, deployment, [each.applied for each in ready]
    )  # fmt: skip
    stacks = [*Search(kb, ready).stacks(3, UNKNOWN)]
    ranking = Ranking(costs, baseline, METRICS[goal], (), {}, stacks, StackRisk.among(kb, ready, costs))
    assert ranking.front()
    assert len(ranking.best(lambda _: True, 5)) == 5
    assert costs.exact < len(stacks) / 10


def test_the_preset_typical_stands_for_what_was_found_on_the_device() -> None:
    model, device, workload = PLANNER.model("qwen2.5-vl-7b"), PLANNER.device("h100"), PLANNER.workload("images-20")
    typical = Deployment(efficiency=TYPICAL)
    assert device.typical != TYPICAL
    costs = Costs(model, device, workload, typical, ())
    assert costs.of(0).ttft_s == pytest.approx(estimate(model, device, workload, typical).ttft_s)
