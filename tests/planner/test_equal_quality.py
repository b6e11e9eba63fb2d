"""Plans at equal quality: only techniques whose curve keeps enough, at settings that take away as much as it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner import Planner
from lvlm_atlas.planner.equal_quality import _LEFT, NEAR, SPARED, Equal, Quality, _quantises, at_quality, harmful
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.schema.stack import Departure, MeasuredStack, Member, StackTask
from lvlm_atlas.specs.answers import Kept, architectures_of, kept, of_architecture
from lvlm_atlas.specs.fits import problem
from lvlm_atlas.specs.joint import stack_id, together

PLANNER = Planner()
REQUEST = ("qwen2.5-vl-7b", "h200", "images-20")
QUALITY = Quality(0.8)


@pytest.fixture(scope="module")
def baseline() -> Estimate:
    return PLANNER.estimate(*REQUEST)


@pytest.fixture(scope="module")
def equals(baseline: Estimate) -> dict[str, Equal | str]:
    kb = PLANNER.kb
    fitting = [each for each in kb.atlas.techniques.values() if not problem(each, baseline.model, baseline.workload)]
    return {each.id: at_quality(kb, each, QUALITY, baseline) for each in fitting}


def test_each_keeps_enough_and_no_cheaper_setting_of_its_curve_does(equals: dict[str, Equal | str]) -> None:
    chosen = {id_: each for id_, each in equals.items() if isinstance(each, Equal)}
    assert len(chosen) > 10
    for id_, each in chosen.items():
        curve = PLANNER.kb.atlas.curves[id_]
        assert each.kept.share >= QUALITY.share
        cheaper = [one for one in kept(curve) if one.cost[curve.main_cost] < each.kept.cost[curve.main_cost]]
        assert all(one.share < QUALITY.share for one in cheaper)


def test_those_without_a_curve_or_with_too_harsh_a_one_say_so(equals: dict[str, Equal | str]) -> None:
    curves = PLANNER.kb.atlas.curves
    for id_, each in equals.items():
        if id_ not in curves:
            assert each == "has no curve, so what it keeps of the answers is not known"
        elif curves[id_].untuned:
            assert each == "its paper trains the model for it; its curve is that of models that were not"
        elif all(one.share < QUALITY.share for one in kept(curves[id_])):
            assert isinstance(each, str)


def test_whole_numbers_leave_of_a_long_request_what_they_left_in_the_lab(
    equals: dict[str, Equal | str], baseline: Estimate
) -> None:
    scaled = 0
    for id_, each in equals.items():
        curve = PLANNER.kb.atlas.curves.get(id_)
        if not isinstance(each, Equal) or curve is None or _quantises(PLANNER.kb, each.choice.technique):
            continue
        if curve.main_cost == "target_passes":
            assert each.choice.setting == each.kept.setting  # as many drafted tokens for any request
            continue
        after = PLANNER.estimate(*REQUEST, stack=[each.choice])
        parameter = each.choice.technique.parameters.get(curve.knob or "")
        if parameter is not None and parameter.type == "int" and not parameter.choices:
            left = _LEFT[curve.main_cost](baseline, after)
            assert abs(left - each.kept.cost[curve.main_cost]) <= NEAR, id_
            scaled += each.choice.setting != each.kept.setting
        else:
            for cost, left_of in _LEFT.items():
                assert each.kept.cost[cost] < SPARED or left_of(baseline, after) >= SPARED, (id_, cost)
    assert scaled > 3


def test_a_plan_holds_only_what_keeps_enough_and_says_how_much(equals: dict[str, Equal | str]) -> None:
    plan = PLANNER.plan(*REQUEST, goal="ttft", keep_quality=QUALITY.share, max_techniques=2)
    assert plan.front
    for option in plan.front:
        ids = [each.id for each in option.estimate.stack]
        assert list(option.answers) == ids
        assert all(isinstance(equals[id_], Equal) for id_ in ids)
        for id_, others in option.elsewhere.items():
            curve = PLANNER.kb.atlas.curves[id_]
            assert [*others] == [name for name in architectures_of(curve)[1:] if name in others]
            for name, other in others.items():
                assert other in kept(of_architecture(curve, name))
                assert other.setting == option.answers[id_].setting
    assert any(others for option in plan.front for others in option.elsewhere.values())
    assert "80%" in plan.settings
    assert all(option["answers"] for option in plan.to_dict()["front"])


@pytest.mark.parametrize(
    ("more", "said"),
    [({"keep_quality": 0.0}, "above 0"), ({"keep_quality": 1.5}, "at most 1"),
     ({"keep_quality": 0.9, "task": "reed"}, "no task 'reed'"), ({"task": "read"}, "share of them")],
)  # fmt: skip
def test_what_no_curve_answers_is_refused(more: dict, said: str) -> None:
    with pytest.raises(AtlasError, match=said):
        PLANNER.plan(*REQUEST, goal="ttft", **more)


def test_a_pair_that_keeps_less_together_than_asked_for_is_in_no_stack(equals: dict[str, Equal | str]) -> None:
    plan = PLANNER.plan(*REQUEST, goal="total", keep_quality=QUALITY.share, max_techniques=2)
    option = next(each for each in plan.front if len(each.answers) == 2)
    assert option.together is not None
    answers = dict(option.answers)
    assert option.together.share == pytest.approx(together(PLANNER.kb.atlas.stacks, answers).share)
    record = a_record(answers, lost=0.5)
    kb = KnowledgeBase(replace(PLANNER.kb.atlas, stacks={record.id: record}))
    assert harmful(kb, answers, QUALITY).keys() == {frozenset(answers)}
    assert not harmful(kb, answers, Quality(0.01))
    again = Planner(kb=kb).plan(*REQUEST, goal="total", keep_quality=QUALITY.share, max_techniques=2)
    assert all({*answers} != {*each.answers} for each in again.front)
    (lost,) = (each for each in again.conflicts if each.kind == "answers")
    assert record.id in lost.why
    mild = a_record(answers, lost=-0.1)
    kb = KnowledgeBase(replace(PLANNER.kb.atlas, stacks={mild.id: mild}))
    again = Planner(kb=kb).plan(*REQUEST, goal="total", keep_quality=QUALITY.share, max_techniques=2)
    same = next(each for each in again.front if {*each.answers} == {*answers})
    assert same.together is not None
    assert same.together.records == (mild.id,)
    assert same.together.share == pytest.approx(sum(each.share for each in answers.values()) - 1 + 0.1)


def a_record(answers: Mapping[str, Kept], lost: float) -> MeasuredStack:
    """Techniques that lose so much more together than in sum, of a hundred questions."""
    half = "0" * 50 + "1" * 50
    task = StackTask(
        checkpoint="lab-a", task="read", samples=100, full="1" * 100, alone=(half, "1" * 100),
        joint="0" * round(50 + 100 * lost) + "1" * round(50 - 100 * lost),
    )  # fmt: skip
    found = Departure(value=lost, low=lost - 0.05, high=lost + 0.05)
    return MeasuredStack(
        id=stack_id(answers), date="2026-11-30", version="0", checkpoints={"lab-a": "0" * 64}, kept=0.5 - lost,
        machine=Machine(device="a", kind="cpu", python="3.11", torch="2", system="Linux"), departure=found,
        members=tuple(Member(technique=id_, setting={}, kept=0.5) for id_ in answers), verdict=found.verdict,
        tasks=(task,),
    )  # fmt: skip
