"""Every pair of implemented techniques composes, or is refused and the graph says so."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.lab.observation import carry_out
from lvlm_atlas.lab.stacks import PairReport, jobs_for, report
from lvlm_atlas.lab.verification import StackAnswer
from lvlm_atlas.schema.technique import Technique

ATLAS = load(Path(__file__).resolve().parents[2])
PAIRS = list(combinations([t for t in ATLAS.atlas.techniques.values() if t.reference], 2))


def run(one: Technique, two: Technique, device: str = "cpu") -> list[StackAnswer]:
    return [carry_out(job) for job in jobs_for(ATLAS.atlas, one, two, "float32", device)]


def judged(answers: list[StackAnswer]) -> PairReport:
    one, two = (each.technique.id for each in answers[0].job.items)
    return report(answers, ATLAS.between(one, two))


@pytest.mark.parametrize(("one", "two"), PAIRS, ids=[f"{one.id}+{two.id}" for one, two in PAIRS])
def test_every_pair_composes_as_declared_or_is_refused_as_the_graph_says(
    one: Technique, two: Technique, device: str
) -> None:
    found = judged(run(one, two, device))
    assert found.faults == ()
    assert found.composed or found.refused


@pytest.fixture(scope="module")
def refused() -> list[StackAnswer]:
    return run(ATLAS.technique("look-m"), ATLAS.technique("xattention"))


@pytest.fixture(scope="module")
def composing() -> list[StackAnswer]:
    return run(ATLAS.technique("fastv"), ATLAS.technique("kivi"))


def test_a_refusal_without_an_edge_is_a_fault(refused: list[StackAnswer]) -> None:
    (fault,) = report(refused, ()).faults
    assert fault.startswith("they are refused, and the graph has no conflicts-with between them: StackError")


def test_a_conflict_that_composes_is_a_fault(composing: list[StackAnswer]) -> None:
    edges = [edge for edge in ATLAS.between("look-m", "xattention") if edge.kind == "conflicts-with"]
    (fault,) = report(composing, edges).faults
    assert fault.startswith("they compose, yet the graph says conflicts-with")


def without_bites(answers: list[StackAnswer], item: str) -> list[StackAnswer]:
    """The same answers, where one technique explains nothing."""
    changed = []
    for answer in answers:
        idle = [each.technique.id for each in answer.job.items].index(item)
        outcomes = tuple(
            outcome.model_copy(update={"bites": tuple(part for part in outcome.bites if part.item != idle)})
            for outcome in answer.outcomes
        )
        changed.append(answer.model_copy(update={"outcomes": outcomes}))
    return changed


def test_a_member_that_does_nothing_needs_an_edge_that_says_why(composing: list[StackAnswer]) -> None:
    idle = without_bites(composing, "kivi")
    assert report(idle, ()).faults == ("kivi does nothing beside the other, and no edge `diminishes` says why",)
    reasons = [edge for edge in ATLAS.edges if edge.kind == "diminishes"][:1]
    assert report(idle, reasons).faults == ()


def test_composed_effects_that_do_not_hold_are_a_fault() -> None:
    fastv = ATLAS.technique("fastv")
    wrong = fastv.effects[0].model_copy(update={"scale": "keep_ratio / 2"})
    found = judged(run(fastv.model_copy(update={"effects": (wrong,)}), ATLAS.technique("tome")))
    assert found.faults
    assert all("llm.vision-tokens" in fault for fault in found.faults)


def test_a_crash_and_a_lost_process_are_faults(composing: list[StackAnswer]) -> None:
    crashed = composing[0].outcomes[0].model_copy(update={"rows": (), "crashed": "TypeError: no such luck"})
    answers = [composing[0].model_copy(update={"outcomes": (crashed,), "problem": "was stopped"}), composing[1]]
    faults = report(answers, ()).faults
    assert "was stopped" in faults
    assert any("TypeError: no such luck" in fault for fault in faults)
