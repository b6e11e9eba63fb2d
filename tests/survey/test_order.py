"""The order of techniques, ours against that of sources."""

from __future__ import annotations

import itertools

import pytest

from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.schema.curve import Curve, CurvePoint, TaskCurve
from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.survey.order import LEAST, agreement, between_models, spearman

MACHINE = Machine(device="a", kind="cpu", python="3.11", torch="2", system="Linux")
IDS = tuple("abcde")


def test_rank_correlation_is_that_of_the_formula_without_ties() -> None:
    for order in itertools.permutations(range(5)):
        distance = sum((rank - at) ** 2 for at, rank in enumerate(order))
        assert spearman(range(5), order) == pytest.approx(1 - 6 * distance / (5 * 24))


def test_ties_share_their_rank_and_no_order_has_no_correlation() -> None:
    assert spearman([1, 2, 2, 3], [10, 20, 20, 30]) == pytest.approx(1)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def curve(id_: str, right: int, cost: float = 0.25) -> Curve:
    made = CurvePoint(setting={}, cost={"vision_tokens": cost}, right=right, lost=100 - right, gained=0, hard_right=0)
    task = TaskCurve(checkpoint="lab-a", task="read", of=100, full=100, hard=0, points=(made,))
    return Curve(
        samples=100, id=id_, date="2026-11-30", version="0", machine=MACHINE, checkpoints={"lab-a": "0" * 64},
        main_cost="vision_tokens", tasks=(task,),
    )  # fmt: skip


def result(technique: str, value: float, template: ReportedResult, share: float = 0.25) -> ReportedResult:
    from dataclasses import replace

    return replace(template, technique=technique, value=value, share_kept=share, kind="benchmark", better="higher")


@pytest.fixture(scope="module")
def template() -> ReportedResult:
    from lvlm_atlas import load
    from lvlm_atlas.atlas.root import data_root
    from lvlm_atlas.graph.results import results

    kb = load(data_root())
    return next(each for each in results(kb.atlas, kb.atlas.techniques.values()) if each.kind == "benchmark")


def test_the_same_order_agrees_and_the_other_way_round_disagrees(template: ReportedResult) -> None:
    reported = [result(id_, 10.0 * at, template) for at, id_ in enumerate(IDS)]
    rising = {id_: curve(id_, 50 + at) for at, id_ in enumerate(IDS)}
    falling = {id_: curve(id_, 60 - at) for at, id_ in enumerate(IDS)}
    assert agreement(reported, rising).mean == pytest.approx(1)
    assert agreement(reported, falling).mean == pytest.approx(-1)


def test_curves_without_the_training_of_their_source_are_no_part_of_the_order(template: ReportedResult) -> None:
    reported = [result(id_, 10.0 * at, template) for at, id_ in enumerate(IDS)]
    rising = {id_: curve(id_, 50 + at).model_copy(update={"untuned": True}) for at, id_ in enumerate(IDS)}
    assert not agreement(reported, rising).comparisons


def test_too_few_or_other_shares_are_no_comparison(template: ReportedResult) -> None:
    reported = [result(id_, 10.0 * at, template) for at, id_ in enumerate(IDS)]
    few = {id_: curve(id_, 50 + at) for at, id_ in enumerate(IDS[: LEAST - 1])}
    elsewhere = {id_: curve(id_, 50 + at, cost=0.6) for at, id_ in enumerate(IDS)}
    assert agreement(reported, few).mean is None
    assert agreement(reported, elsewhere).comparisons == ()


def two_models(id_: str, first: int, second: int) -> Curve:
    one = curve(id_, first)
    other = curve(id_, second).tasks[0].model_copy(update={"checkpoint": "lab-b"})
    return one.model_copy(update={"checkpoints": {"lab-a": "0" * 64, "lab-b": "1" * 64}, "tasks": (*one.tasks, other)})


def test_models_that_order_techniques_alike_agree_whatever_they_keep() -> None:
    alike = [two_models(id_, 50 + at, 20 + 3 * at) for at, id_ in enumerate(IDS)]
    reverse = [two_models(id_, 50 + at, 40 - at) for at, id_ in enumerate(IDS)]
    assert between_models(alike, 0.25) == pytest.approx({("lab-a", "lab-b"): 1})
    assert between_models(reverse, 0.25) == pytest.approx({("lab-a", "lab-b"): -1})
    assert between_models([curve(id_, 50 + at) for at, id_ in enumerate(IDS)], 0.25) == {}
