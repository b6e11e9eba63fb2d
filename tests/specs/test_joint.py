"""What stacks keep: losses add up, but for what records say; and every record says what its answers say."""

from __future__ import annotations

import pytest

from lvlm_atlas import load
from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.schema.stack import Departure, MeasuredStack, Member, StackTask
from lvlm_atlas.specs.answers import Kept
from lvlm_atlas.specs.joint import departure, together

MACHINE = Machine(device="a", kind="cpu", python="3.11", torch="2", system="Linux")
STORED = load().atlas.stacks


def stack(*ids: str, off: float) -> MeasuredStack:
    """A record of a hundred questions, of which only all together lose some."""
    lost = round(100 * off)
    tasks = StackTask(
        checkpoint="lab-a", task="read", samples=100, full="1" * 100, alone=("1" * 100,) * len(ids),
        joint="0" * lost + "1" * (100 - lost),
    )  # fmt: skip
    found = Departure(value=off, low=off - 0.03, high=off + 0.03)
    return MeasuredStack(
        id=".".join(sorted(ids)), date="2026-11-30", version="0", machine=MACHINE, checkpoints={"lab-a": "0" * 64},
        members=tuple(Member(technique=id_, setting={}, kept=1.0) for id_ in ids), kept=1 - off, departure=found,
        verdict=found.verdict, tasks=(tasks,),
    )  # fmt: skip


def alone(share: float) -> Kept:
    return Kept({}, {}, share, 0.04, ("read",), 100, 1)


ANSWERS = {"b": alone(0.95), "a": alone(0.9), "c": alone(1.0)}
PAIR, OTHER, WHOLE = stack("a", "b", off=0.1), stack("c", "b", off=0.02), stack("a", "b", "c", off=0.2)


def test_losses_add_up_where_nothing_was_measured() -> None:
    found = together({}, ANSWERS)
    assert found.share == pytest.approx(0.85)
    assert found.margin == pytest.approx(0.04 * 3**0.5)
    assert not found.records
    assert len(found.unmeasured) == 3


def test_what_was_measured_of_pairs_corrects_the_sum() -> None:
    found = together({PAIR.id: PAIR, OTHER.id: OTHER}, ANSWERS)
    assert found.share == pytest.approx(0.85 - 0.12)
    assert {*found.records} == {"a.b", "b.c"}
    assert found.unmeasured == (("a", "c"),)


def test_the_record_of_the_whole_stack_takes_the_place_of_its_pairs() -> None:
    found = together({each.id: each for each in (PAIR, OTHER, WHOLE)}, ANSWERS)
    assert found.share == pytest.approx(0.85 - 0.2)
    assert found.records == ("a.b.c",)
    assert not found.unmeasured


def test_a_record_says_nothing_of_tasks_that_it_lacks() -> None:
    assert departure(PAIR, ("where",)) is None
    assert together({PAIR.id: PAIR}, {"a": alone(0.9), "b": alone(0.9)}, ("where",)).records == ()


@pytest.mark.catalog
def test_every_record_says_what_its_answers_say() -> None:
    for id_, each in STORED.items():
        assert id_ == each.id == ".".join(sorted(each.techniques))
        assert each.departure.value == pytest.approx(departure(each), abs=1e-4)
        assert each.departure.low <= each.departure.value <= each.departure.high
        assert each.verdict == each.departure.verdict
        lost = sum(1 - one.kept for one in each.members)
        models = len(each.checkpoints)
        assert models > 1 or 1 - each.kept - lost == pytest.approx(each.departure.value, abs=1e-3)
        for one in each.tasks:
            assert len(one.alone) == len(each.members)
            assert {len(one.joint), *map(len, one.alone)} == {len(one.full)}
            assert len(one.full) % one.samples == 0
