"""How much is known against or for a stack: an ordinal scale, from declared facts alone."""

from __future__ import annotations

from collections.abc import Iterable

from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.schema.effect import Speculation
from lvlm_atlas.schema.technique import Technique

RISKS = ("exact", "reported", "lossy", "unknown")
"""From least to most. `exact`: every technique only drafts and verifies, and its entry declares the output unchanged.
`reported`: others too, each with results that a source reports. `lossy`: others too, some without any reported result.
`unknown`: nobody has said whether some two of them work together, or they leave fewer vision tokens than any source of
theirs reports on. Pairs of the first three are all known to work."""
UNKNOWN = RISKS.index("unknown")


def risk(technique: Technique) -> int:
    """Place of a technique on the scale."""
    if all(isinstance(effect, Speculation) and effect.exact != "no" for effect in technique.effects):
        return RISKS.index("exact")
    return RISKS.index("reported" if technique.reported else "lossy")


NEAR = 0.9
"""Share of the least that sources report on down to which a stack counts as tried: settings are printed rounded."""


def least_share(results: Iterable[ReportedResult]) -> float | None:
    """The least share of the vision tokens that results are reported on; None where none says its share."""
    return min((each.share_kept for each in results if each.share_kept), default=None)


def beyond(left: float, least: float | None) -> bool:
    """Whether a stack leaves fewer vision tokens than any source of its techniques reports on.

    Args:
        left: share of the vision tokens left, from 0 to 1.
        least: the least share that any of those sources reports on; None: none says one.
    """
    return least is not None and left < NEAR * least
