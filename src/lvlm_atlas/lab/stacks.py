"""Whether techniques work in pairs as the graph says: they compose and their effects with them, or are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.verdict import BREAKS
from lvlm_atlas.lab.conformance import item, shown
from lvlm_atlas.lab.settings import SHAPES
from lvlm_atlas.lab.verification import Plan, StackAnswer, StackJob
from lvlm_atlas.schema.technique import Technique

EXPLAINS_IDLENESS = "diminishes"
"""Kind of the edge that must be there where one technique takes all the ground of another."""


@dataclass(frozen=True)
class PairReport:
    """What the runs of a pair, in both orders, amount to."""

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
    one, two = (each.technique.id for each in answers[0].job.items)
    outcomes = [outcome for answer in answers for outcome in answer.outcomes]
    reasons = [outcome.refused for outcome in outcomes if outcome.refused]
    return PairReport(
        (one, two),
        composed=sum(bool(outcome.rows) for outcome in outcomes),
        refused={reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        faults=tuple(_faults(answers, {edge.kind for edge in edges})),
    )


def _faults(answers: Sequence[StackAnswer], kinds: set[str]) -> Iterator[str]:
    outcomes = [outcome for answer in answers for outcome in answer.outcomes]
    ran = [outcome for outcome in outcomes if outcome.rows]
    breaks = bool(kinds & BREAKS)
    for answer in answers:
        if answer.problem is not None:
            yield answer.problem
        ids = " + ".join(each.technique.id for each in answer.job.items)
        for outcome in answer.outcomes:
            if outcome.crashed:
                yield f"{ids}: {shown(outcome.plan)}: {outcome.crashed}"
            for row in outcome.rows:
                if not row.holds:
                    yield f"{ids}: {shown(outcome.plan)}: {row.measure} is {row.observed}, declared {row.declared}"
    if ran and breaks:
        yield f"they compose, yet the graph says conflicts-with; first on {shown(ran[0].plan)}"
    if not ran and not breaks and outcomes and all(outcome.refused for outcome in outcomes):
        yield f"they are refused, and the graph has no conflicts-with between them: {outcomes[0].refused}"
    if ran and EXPLAINS_IDLENESS not in kinds:
        biting = {
            answer.job.items[part.item].technique.id
            for answer in answers
            for outcome in answer.outcomes
            for part in outcome.bites
            if part.kind == "effects"
        }
        for each in answers[0].job.items:
            if each.technique.id not in biting:
                yield f"{each.technique.id} does nothing beside the other, and no edge `{EXPLAINS_IDLENESS}` says why"
