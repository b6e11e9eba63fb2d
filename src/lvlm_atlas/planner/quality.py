"""What sources report of the quality that a technique keeps, nearest to what is planned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from lvlm_atlas.graph.results import ReportedResult

OVERALL = "retained-quality"
"""Metric of quality over several benchmarks together."""


def nearest(results: Iterable[ReportedResult], model: str, left: float) -> list[ReportedResult]:
    """Results of the planned model first, then those nearest to the share of vision tokens that a stack leaves.

    Args:
        results: what sources report.
        model: id of the planned model.
        left: share of the vision tokens left, from 0 to 1.
    """
    return sorted(results, key=partial(_distance, model, left))


def quality(results: Sequence[ReportedResult], model: str, left: float) -> ReportedResult | None:
    """The result that says best which share of its quality a technique keeps; None if none says it.

    A score over several benchmarks wins over one benchmark of the same model at the same share of tokens.

    Args:
        results: what sources report of the technique alone.
        model: id of the planned model.
        left: share of the vision tokens left, from 0 to 1.
    """
    of_quality = (
        each
        for each in results
        if each.percent_of_baseline is not None
        and each.better == "higher"
        and (each.kind == "benchmark" or each.measure == OVERALL)
    )
    return min(of_quality, key=lambda each: (*_distance(model, left, each), each.measure != OVERALL), default=None)


def _distance(model: str, left: float, result: ReportedResult) -> tuple[bool, float]:
    """How far a result is from what is planned: another model, another share of the vision tokens."""
    return result.model != model, abs((1.0 if result.share_kept is None else result.share_kept) - left)
