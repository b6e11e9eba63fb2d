"""What stands between a stack and its use, and between its prediction and what sources saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lvlm_atlas.graph.results import ReportedResult
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
    left = _vision(after) / _vision(before) if _vision(before) else 1.0
    least = min(
        (result.share_kept for results in reported.values() for result in results if result.share_kept), default=0
    )
    if left < least * 0.99:
        yield f"leaves {share(left)} of the vision tokens; the least that its sources report on is {share(least)}"


def _vision(estimate: Estimate) -> float:
    """Vision tokens of all LLM layers in prefilling."""
    return sum(estimate.state.prefilled.vision)


def shipments(technique: Technique) -> Iterator[str]:
    """Which engines have a technique, and how they switch it on."""
    for shipped in technique.shipped_in:
        since = f" since {shipped.since}" if shipped.since else ""
        yield f"{technique.id}: {shipped.engine}{since}: {shipped.how}"
