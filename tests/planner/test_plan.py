"""Plans: who is left out and why, limits, memory, risk and settings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.risk import RISKS
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.stack import milder

ASKED = ("qwen2.5-vl-7b", "h200", "images-20")


@pytest.mark.parametrize(
    ("id_", "model", "workload", "said"),
    [
        ("visionzip", "qwen2.5-vl-7b", "images-20", "needs `cls-token`"),
        ("visionzip", "llava-1.5-7b", "images-20", None),
        ("specvlm-ji", "qwen2.5-vl-7b", "images-20", "is for videos"),
        ("specvlm-ji", "qwen2.5-vl-7b", "video-60s", None),
        ("visionzip", "internvl3-8b", "images-20", "needs `free-patches`"),
        ("tome", "qwen2.5-vl-7b", "images-20", "its adapter joins neighbours of the patch grid"),
        ("tome", "llava-1.5-7b", "images-20", None),
        ("fastv", "llama-3.2-11b-vision", "images-20", "needs `vision-in-sequence`"),
        ("kivi", "llama-3.2-11b-vision", "images-20", None),
    ],
)
def test_what_the_records_decide_is_decided(
    planner: Planner, id_: str, model: str, workload: str, said: str | None
) -> None:
    why = problem(planner.kb.technique(id_), planner.model(model), planner.workload(workload))
    assert (why is None) if said is None else (why is not None and said in why)


def test_a_request_of_text_alone_leaves_only_techniques_for_text(planner: Planner) -> None:
    plan = planner.plan("qwen2.5-vl-7b", "h200", Workload(text_tokens=4000), goal="total")
    barred = {each.what for each in plan.left_out}
    assert "fastv" in barred
    assert not {"kivi", "xattention", "speculative-sampling"} & barred


def test_an_estimate_refuses_what_a_plan_leaves_out(planner: Planner) -> None:
    with pytest.raises(AtlasError, match=r"visionzip needs `cls-token`.*leave it out"):
        planner.estimate(*ASKED, stack=["visionzip"])


def test_every_technique_is_in_the_front_or_has_a_reason_not_to_be(planner: Planner) -> None:
    for goal in ("ttft", "tpot", "total", "memory"):
        plan = planner.plan(*ASKED, goal=goal)
        used = {each.id for option in plan.front for each in option.estimate.stack}
        unused, barred = ({each.what for each in lost} for lost in (plan.unused, plan.left_out))
        assert used | unused | barred == {*planner.kb.atlas.techniques}
        assert not used & unused
        assert all(each.why for each in (*plan.unused, *plan.left_out, *plan.runners_up, *plan.conflicts))


def test_a_baseline_is_searched_only_where_it_is_asked_for(planner: Planner) -> None:
    def searched(**words: object) -> bool:
        plan = planner.plan(*ASKED, goal="ttft", **words)
        barred = {each.what: each.why for each in plan.left_out}
        assert "is a baseline" in barred.get("random", "is a baseline")
        return "random" not in barred

    assert not searched()
    assert not searched(require="stage:prefilling")
    assert searched(require="random")
    assert searched(settings=["random:keep_ratio=0.1"])


def test_a_technique_for_another_stage_is_told_that_it_is_no_part_of_the_goal(planner: Planner) -> None:
    why = {each.what: each.why for each in planner.plan(*ASKED, goal="ttft").unused}
    assert "which is no part of ttft" in why["kivi"]


def test_stacks_that_break_a_limit_are_not_in_the_plan_if_others_keep_it(planner: Planner) -> None:
    free = planner.plan(*ASKED, goal="ttft", deployment=Deployment())
    tight = planner.plan(*ASKED, goal="ttft", slo={"tpot": 0.002}, deployment=Deployment())
    assert not all(option.estimate.tpot_s <= 0.002 for option in free.front)
    assert tight.front
    assert all(option.meets and option.estimate.tpot_s <= 0.002 for option in tight.front)


def test_where_no_stack_keeps_a_limit_the_nearest_are_shown_as_missing_it(planner: Planner) -> None:
    plan = planner.plan(*ASKED, goal="ttft", slo={"ttft": 1e-6})
    assert plan.front
    assert not any(option.meets for option in plan.front)


def test_less_risk_is_a_subset_and_never_better(planner: Planner) -> None:
    best = []
    for worst in RISKS:
        plan = planner.plan(*ASKED, goal="total", risk=worst)
        assert all(RISKS.index(option.risk) <= RISKS.index(worst) for option in plan.front)
        best.append(min(option.estimate.total_s for option in (plan.baseline, *plan.front)))
    assert best == sorted(best, reverse=True)


def test_fewer_tokens_than_any_source_reports_on_are_an_unknown_risk(planner: Planner) -> None:
    plans = [planner.plan(*ASKED, goal="ttft", risk=worst) for worst in ("unknown", "lossy")]
    said = [
        [any("the least that its sources" in text for text in each.warnings) for each in plan.front] for plan in plans
    ]
    assert any(said[0])
    assert not any(said[1])
    assert all(option.risk == "unknown" for option, few in zip(plans[0].front, said[0], strict=True) if few)


def test_unknown_pairs_are_shown_as_unknown(planner: Planner) -> None:
    plan = planner.plan(*ASKED, goal="total")
    unknown = [option for option in plan.front if any(pair.verdict == "unknown" for pair in option.pairs)]
    assert unknown
    assert all(option.risk == "unknown" for option in unknown)


@pytest.mark.parametrize(("ceiling", "left_out"), [("none", True), ("calibration", True), ("finetune", False)])
def test_training_is_a_ceiling(planner: Planner, ceiling: str, left_out: bool) -> None:
    atlas = planner.kb.atlas
    tuned = atlas.techniques["fastv"].model_copy(update={"training": "finetune"})
    trained = Planner(kb=KnowledgeBase(replace(atlas, techniques={**atlas.techniques, "fastv": tuned})))
    plan = trained.plan(*ASKED, goal="total", training=ceiling)
    reasons = {each.what: each.why for each in plan.left_out if "training" in each.why}
    order = [term.id for term in atlas.terms("training")]
    above = {
        each.id: f"needs training: {each.training}"
        for each in trained.kb.atlas.techniques.values()
        if order.index(each.training) > order.index(ceiling)
    }
    assert ("fastv" in reasons) == left_out
    assert reasons.items() <= above.items()


def test_milder_settings_lie_between_the_default_and_the_neutral_one(planner: Planner) -> None:
    found = {id_: milder(planner.kb.technique(id_)) for id_ in ("fastv", "kivi", "tome", "speculative-sampling")}
    settings = {id_: choice.setting for id_, choice in found.items() if choice}
    assert settings == {
        "fastv": {"keep_ratio": 0.75}, "kivi": {"bits": 4}, "tome": {"r": 4}, "speculative-sampling": {"gamma": 2},
    }  # fmt: skip
    plan = planner.plan(*ASKED, goal="ttft", milder=True)
    assert any("keep_ratio=0.75" in option.label for option in plan.front)


def test_a_model_that_nothing_makes_fit_is_one_error_with_the_repair(planner: Planner) -> None:
    with pytest.raises(AtlasError, match=r"Qwen2.5-VL-72B needs .* GB.*give --tp"):
        planner.plan("qwen2.5-vl-72b", "l40s", "images-20", goal="ttft")


def test_assumptions_of_each_technique_are_in_the_plan(planner: Planner) -> None:
    plan = planner.plan(*ASKED, goal="tpot", require="speculative-sampling")
    assert any(text.startswith("speculative-sampling: accepted length") for text in plan.assumptions)


def test_where_no_stack_keeps_a_limit_the_nearest_come_first() -> None:
    plan = Planner().plan(*ASKED, goal="tpot", slo={"ttft": 0.15})
    first, *rest = [option.estimate.ttft_s for option in plan.front]
    assert first > 0.15
    assert all(first <= other * 1.01 for other in rest)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_a_number_above_0(limit: float) -> None:
    with pytest.raises(AtlasError, match="give a number of s from 1e-12"):
        Planner().plan(*ASKED, goal="ttft", slo={"ttft": limit})


@pytest.mark.parametrize("slo", [{}, {"ttft": 0.15}, {"ttft": 1e-6}])
def test_no_stack_of_a_plan_is_among_those_that_lost(planner: Planner, slo: dict[str, float]) -> None:
    plan = planner.plan(*ASKED, goal="tpot", slo=slo)
    shown = {option.label for option in plan.front}
    assert shown
    assert plan.runners_up
    assert not shown & {lost.what for lost in plan.runners_up}


@pytest.mark.parametrize("goal", ["ttft", "total", "memory"])
def test_what_is_dominated_is_dominated_by_a_stack_of_the_plan_or_by_none(planner: Planner, goal: str) -> None:
    plan = planner.plan(*ASKED, goal=goal)
    shown = {"no technique", *(option.label for option in plan.front)}
    reasons = [lost.why for lost in (*plan.unused, *plan.runners_up) if lost.kind == "dominated"]
    assert reasons
    for why in reasons:
        assert why.partition("dominated by ")[2].rpartition(f": {goal} ")[0] in shown


def test_every_fault_of_an_objective_is_refused_before_the_search(planner: Planner) -> None:
    for wrong, message in (
        ({"max_techniques": 0}, "give one from 1 to 6"),
        ({"risk": "none"}, "no risk 'none'"),
        ({"training": "half"}, "no training 'half'"),
        ({"also": ["cost"]}, "cost needs the price"),
        ({"require": "visionzip"}, "visionzip is left out"),
        ({"exclude": "nosuch"}, "--exclude nosuch: "),
    ):
        with pytest.raises(AtlasError, match=message):
            planner.plan(*ASKED, goal="total", **wrong)
