"""Compatible techniques compose as declared, every pair of them in some stack; what is refused the graph says."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.graph.verdict import BREAKS
from lvlm_atlas.lab.changes import changed
from lvlm_atlas.lab.covering import covering, in_other_order, job_for, refusals, smallest, without
from lvlm_atlas.lab.observation import carry_out
from lvlm_atlas.lab.stacks import PairReport, faults_of, jobs_for, report
from lvlm_atlas.lab.verification import StackAnswer, StackJob
from lvlm_atlas.schema.technique import Technique

ROOT = Path(__file__).resolve().parents[2]
ATLAS = load(ROOT)
IMPLEMENTED = [t for t in ATLAS.atlas.techniques.values() if t.reference]
REFUSALS = refusals(IMPLEMENTED)


def conflict(one: str, two: str) -> bool:
    return any(edge.kind in BREAKS for edge in ATLAS.between(one, two))


COMPATIBLE = {pair for pair, reason in REFUSALS.items() if reason is None and not conflict(*pair)}
STACKS = [tuple(map(ATLAS.technique, ids)) for ids in covering([t.id for t in IMPLEMENTED], COMPATIBLE)]


def name(stack: tuple[Technique, ...]) -> str:
    return "+".join(each.id for each in stack)


def run(one: Technique, two: Technique, device: str = "cpu") -> list[StackAnswer]:
    return [carry_out(job) for job in jobs_for(ATLAS.atlas, one, two, "float32", device)]


def judged(answers: list[StackAnswer]) -> PairReport:
    one, two = (each.technique.id for each in answers[0].job.items)
    return report(answers, ATLAS.between(one, two))


def faults(job: StackJob) -> tuple[str, ...]:
    return faults_of(carry_out(job))


@pytest.mark.parametrize("stack", STACKS, ids=name)
def test_every_compatible_pair_was_seen_together_in_a_stack(stack: tuple[Technique, ...], device: str) -> None:
    """What is refused in one order alone needs no edge: of the rest, all the same, each is seen beside each."""
    job = job_for(ATLAS.atlas, stack, "float32", device)
    while len(job.items) > 1 and faults(job):
        part = smallest(job, faults)
        said = faults(part)
        refused = all("refused on every request" in fault for fault in said)
        # More than two are refused for one reason here and for another there, of which each pair is judged alone.
        if not refused or (len(part.items) == 2 and faults(in_other_order(part))):
            pytest.fail("\n".join(said))
        job = without(job, part.items[0].technique.id)


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=lambda technique: technique.id)
def test_a_pair_that_is_refused_before_it_runs_is_a_conflict_in_the_graph(technique: Technique) -> None:
    reasons = {
        (one, two): reason
        for (one, two), reason in REFUSALS.items()
        if technique.id == one and reason and REFUSALS[two, one] and not conflict(one, two)
    }
    assert reasons == {}, "state `conflicts-with`, with a reason and a source, in one of their entries"


def pairs_to_run(config: pytest.Config) -> list[tuple[Technique, Technique]]:
    """Whole pairs: with a technique that changed, and those that conflict although a stack takes both."""
    since, id_ = config.getoption("--since"), config.getoption("--technique")
    again = {each.id for each in changed(ROOT, IMPLEMENTED, since)} if since else {id_}
    return [
        (one, two)
        for one, two in combinations(IMPLEMENTED, 2)
        if None in (REFUSALS[one.id, two.id], REFUSALS[two.id, one.id])
        and ({one.id, two.id} & again or conflict(one.id, two.id))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"one", "two"} <= set(metafunc.fixturenames):
        pairs = pairs_to_run(metafunc.config)
        metafunc.parametrize(("one", "two"), pairs, ids=map(name, pairs))


def test_a_pair_composes_as_declared_or_is_refused_as_the_graph_says(
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
    found = report(answers, ()).faults
    assert "fastv + kivi: was stopped" in found
    assert any("TypeError: no such luck" in fault for fault in found)


def test_a_failing_stack_is_cut_down_to_what_fails_and_its_fault_named(device: str) -> None:
    fastv = ATLAS.technique("fastv")
    wrong = fastv.effects[0].model_copy(update={"scale": "keep_ratio / 2"})
    stack = [ATLAS.technique("tome"), fastv.model_copy(update={"effects": (wrong,)}), ATLAS.technique("kivi")]
    part = smallest(job_for(ATLAS.atlas, stack, "float32", device), faults)
    assert [each.technique.id for each in part.items] == ["fastv"]
    assert all(
        re.match(r"fastv: .*llm\.vision-tokens is declared .*, counted .*; correct the effect", fault)
        for fault in faults(part)
    )
