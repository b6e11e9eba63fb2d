"""Whether techniques come in the same order on the lab's small models as in the comparisons that sources print."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.specs.answers import kept

LEAST = 4
"""Techniques that a comparison must share with the curves to have an order."""
NEAR = 0.1
"""How far the share of vision tokens of a curve's point may lie from that of the comparison."""


@dataclass(frozen=True)
class Comparison:
    """One benchmark of one source on one model, at one share of the vision tokens."""

    paper: str
    model: str
    measure: str
    share_kept: float
    techniques: tuple[str, ...]
    correlation: float
    """Spearman's rank correlation of what the source reports with what the lab measured."""


@dataclass(frozen=True)
class Agreement:
    """All comparisons that can be held against the curves."""

    comparisons: tuple[Comparison, ...]

    @property
    def mean(self) -> float | None:
        """Mean of their rank correlations, each counted by its techniques; None where there are none."""
        weight = sum(len(each.techniques) for each in self.comparisons)
        if not weight:
            return None
        return sum(each.correlation * len(each.techniques) for each in self.comparisons) / weight


def agreement(results: Iterable[ReportedResult], curves: Mapping[str, Curve]) -> Agreement:
    """Hold the order of sources against the order of the curves, at equal shares of the vision tokens.

    Curves of models that were not trained for a technique, as its source's were, are left out.
    """
    groups: dict[tuple[str, str, str, float], dict[str, ReportedResult]] = defaultdict(dict)
    for result in results:
        curve = curves.get(result.technique)
        if result.kind == "benchmark" and result.share_kept and curve and not curve.untuned:
            key = (result.paper, result.model, result.measure, round(result.share_kept, 2))
            groups[key][result.technique] = result
    found = []
    for (paper, model, measure, share), group in sorted(groups.items()):
        ours = {id_: near for id_ in group if (near := _near(curves[id_], share)) is not None}
        if len(ours) < LEAST:
            continue
        theirs = [_signed(group[id_]) for id_ in ours]
        correlation = spearman(theirs, [*ours.values()])
        if correlation is not None:
            found.append(Comparison(paper, model, measure, share, tuple(sorted(ours)), correlation))
    return Agreement(tuple(found))


def between_models(curves: Iterable[Curve], share: float) -> dict[tuple[str, str], float]:
    """How alike trained models order techniques: the rank correlation of each two that have an order in common.

    Args:
        curves: a technique each.
        share: of its main cost; techniques are compared at the setting that lies nearest.
    """
    several = [each for each in curves if len(each.checkpoints) > 1]
    alike = {}
    for one, two in combinations(sorted({name for each in several for name in each.checkpoints}), 2):
        pairs = [pair for each in several if (pair := _on_both(each, one, two, share))]
        if len(pairs) >= LEAST and (correlation := spearman(*zip(*pairs, strict=True))) is not None:
            alike[one, two] = correlation
    return alike


def _on_both(curve: Curve, one: str, two: str, share: float) -> tuple[float, float] | None:
    """What a technique keeps of each of two models, at the setting nearest to a cost, on the tasks that both have."""
    rows = {name: {each.task: each for each in curve.tasks if each.checkpoint == name} for name in (one, two)}
    shared = [task for task in rows[one] if task in rows[two]]
    points = [kept(curve.model_copy(update={"tasks": tuple(ours[task] for task in shared)})) for ours in rows.values()]
    if not all(points):
        return None
    mine, theirs = (min(each, key=lambda at: abs(at.cost[curve.main_cost] - share)).share for each in points)
    return mine, theirs


def spearman(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Rank correlation, from −1 to 1; None where all of one are equal."""
    ranks = _ranks(one), _ranks(two)
    return statistics.correlation(*ranks) if all(len(set(each)) > 1 for each in ranks) else None


def _ranks(numbers: Sequence[float]) -> list[float]:
    """The rank of each, equal ones at the mean of theirs."""
    ordered = sorted(numbers)
    return [ordered.index(each) + (ordered.count(each) - 1) / 2 for each in numbers]


def _signed(result: ReportedResult) -> float:
    return result.value if result.better == "higher" else -result.value


def _near(curve: Curve, share: float) -> float | None:
    """What a curve keeps at that share of the vision tokens; None where it has no point there."""
    points = [each for each in kept(curve) if abs(each.cost["vision_tokens"] - share) <= NEAR]
    nearest = min(points, key=lambda each: abs(each.cost["vision_tokens"] - share), default=None)
    return nearest.share if nearest else None
