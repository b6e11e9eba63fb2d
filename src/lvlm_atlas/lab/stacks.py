"""Whether techniques work in pairs as the graph says: they compose and their effects with them, or are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.verdict import BREAKS
from lvlm_atlas.lab.conformance import item, shown
from lvlm_atlas.lab.settings import SHAPES
from lvlm_atlas.lab.verification import Outcome, Plan, Row, StackAnswer, StackJob
from lvlm_atlas.schema.record import Record
from lvlm_atlas.schema.technique import Technique

EXPLAINS_IDLENESS = "diminishes"
"""Kind of the edge that must be there where one technique takes all the ground of another."""


class PairRuns(Record):
    """What the runs of a pair, in both orders, amount to."""

    pair: tuple[str, str]
    composed: int = 0
    """Runs that went through."""
    first: str | None = None
    """The first of these in which each does something beside the other; without one, what is stated may keep them
    apart."""
    refused: dict[str, int] = Field(default_factory=dict)
    """Reasons of those that did not, with how often each was given."""
    faults: tuple[str, ...] = ()
    """Crashes, lost processes, and counts that are not as declared."""
    idle: tuple[str, ...] = ()
    """Those of the two that no run needed to be explained."""


@dataclass(frozen=True)
class PairReport:
    """The runs of a pair held against what the graph says of the two."""

    pair: tuple[str, str]
    composed: int
    """Runs that went through."""
    refused: dict[str, int]
    """Reasons of those that did not, with how often each was given."""
    faults: tuple[str, ...]


def jobs_for(atlas: Atlas, one: Technique, two: Technique, dtype: str, device: str) -> tuple[StackJob, ...]:
    """Both orders of a pair, each trial of either at least once, on greedy requests of several shapes."""
    shapes = [shape for shape in SHAPES if not shape.temperature]
    jobs = []
    for pair in ((one, two), (two, one)):
        count = max(len(technique.trials) for technique in pair)
        plans = tuple(
            Plan(
                settings=tuple(technique.trials[number % len(technique.trials)] for technique in pair),
                shape=shapes[(number + shift) % len(shapes)],
            )
            for number in range(count)
            for shift in (0, 1)
        )
        items = tuple(item(atlas, technique) for technique in pair)
        jobs.append(StackJob.model_validate({"items": items, "plans": plans, "dtype": dtype, "device": device}))
    return tuple(jobs)


def report(answers: Sequence[StackAnswer], edges: Sequence[Edge]) -> PairReport:
    """What the runs of a pair amount to, given the edges between the two."""
    return judge(runs_of(answers), edges)


def runs_of(answers: Sequence[StackAnswer]) -> PairRuns:
    """What the runs of a pair amount to, whatever the graph says."""
    one, two = (each.technique.id for each in answers[0].job.items)
    outcomes = [(answer, outcome) for answer in answers for outcome in answer.outcomes]
    reasons = [outcome.refused for _, outcome in outcomes if outcome.refused]
    ran = [outcome for _, outcome in outcomes if outcome.rows]
    bites = {
        answer.job.items[part.item].technique.id
        for answer, outcome in outcomes
        for part in outcome.bites
        if part.kind == "effects"
    }
    return PairRuns(
        pair=(one, two),
        composed=len(ran),
        first=next((shown(outcome.plan) for outcome in ran if len(_biting(outcome)) == len({one, two})), None),
        refused={reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        faults=tuple(fault for answer in answers for fault in _mismatches(answer)),
        idle=tuple(each for each in (one, two) if each not in bites),
    )


def _biting(outcome: Outcome) -> set[int]:
    """The members of a stack without whose effects the counts of a run could not be explained."""
    return {part.item for part in outcome.bites if part.kind == "effects"}


def judge(runs: PairRuns, edges: Sequence[Edge]) -> PairReport:
    """Whether the runs of a pair are as the edges between the two say."""
    return PairReport(runs.pair, runs.composed, runs.refused, tuple(_faults(runs, {edge.kind for edge in edges})))


def faults_of(answer: StackAnswer) -> tuple[str, ...]:
    """What is wrong with the runs of a stack of any size, each with what is declared, counted, and the repair."""
    outcomes = answer.outcomes
    faults = [*_mismatches(answer)]
    if outcomes and all(outcome.refused for outcome in outcomes):
        ids = _ids(answer)
        faults.append(
            f"{ids}: refused on every request, and nothing says so: {outcomes[0].refused}; "
            f"state `conflicts-with` in the entry of one of them, or correct the reference"
        )
    return tuple(faults)


def _ids(answer: StackAnswer) -> str:
    return " + ".join(each.technique.id for each in answer.job.items)


def _mismatches(answer: StackAnswer) -> Iterator[str]:
    if answer.problem is not None:
        yield f"{_ids(answer)}: {answer.problem}"
    for outcome in answer.outcomes:
        where = f"{_ids(answer)}: {shown(outcome.plan)}"
        if outcome.crashed:
            yield f"{where}: {outcome.crashed}"
        for row in outcome.rows:
            if not row.holds:
                yield (
                    f"{where}: {row.measure} is declared {_bounds(row)}, counted {_counted(row)}; correct the effect "
                    f"that declares it, or state `conflicts-with` in the entry of one of them"
                )


def _bounds(row: Row) -> str:
    return ", ".join(f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}" for low, high in row.declared)


def _counted(row: Row) -> str:
    return "not at all" if row.observed is None else ", ".join(f"{number:.6g}" for number in row.observed)


def _faults(runs: PairRuns, kinds: set[str]) -> Iterator[str]:
    yield from runs.faults
    breaks = bool(kinds & BREAKS)
    if runs.first and breaks:
        yield f"they compose, yet the graph says conflicts-with; first on {runs.first}"
    if runs.refused and not runs.composed and not runs.faults and not breaks:
        reason = next(iter(runs.refused))
        yield f"they are refused, and the graph has no conflicts-with between them: {reason}"
    if runs.composed and not breaks and EXPLAINS_IDLENESS not in kinds:
        for id_ in runs.idle:
            yield f"{id_} does nothing beside the other, and no edge `{EXPLAINS_IDLENESS}` says why"
