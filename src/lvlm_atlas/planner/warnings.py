"""What stands between a stack and its use, and between its prediction and what sources saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.planner.risk import beyond, least_share
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.units import share
from lvlm_atlas.schema.technique import Technique


def warnings(
    techniques: Sequence[Technique],
    before: Estimate,
    after: Estimate,
    reported: Mapping[str, Sequence[ReportedResult]],
) -> Iterator[str]:
    """What to say of a stack beside its numbers.

    Args:
        techniques: its techniques.
        before: the request without them.
        after: the request with them.
        reported: what sources report of each.
    """
    if trained := [f"{each.name} ({each.training})" for each in techniques if each.training != "none"]:
        yield f"to be trained or fitted first: {', '.join(trained)}"
    if described := [each.name for each in techniques if each.reference is None]:
        yield f"only described, no reference runs it: {', '.join(described)}"
    left, least = vision_left(before, after), least_share(chain.from_iterable(reported.values()))
    if least is not None and beyond(left, least):
        yield f"leaves {share(left)} of the vision tokens; the least that its sources report on is {share(least)}"


def vision_left(before: Estimate, after: Estimate) -> float:
    """Share of the vision tokens of all LLM layers in prefilling that a stack leaves."""
    tokens = sum(before.state.prefilled.vision)
    return sum(after.state.prefilled.vision) / tokens if tokens else 1.0


def shipments(technique: Technique) -> Iterator[str]:
    """Which engines have a technique, and how they switch it on."""
    for shipped in technique.shipped_in:
        since = f" since {shipped.since}" if shipped.since else ""
        yield f"{technique.id}: {shipped.engine}{since}: {shipped.how}"
