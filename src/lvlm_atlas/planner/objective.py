"""What a plan is asked for: a goal to bring down, limits, and which techniques it may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.equal_quality import Quality
from lvlm_atlas.planner.metric import Metric, checked_limit, metric
from lvlm_atlas.planner.risk import RISKS
from lvlm_atlas.roofline.estimate import Estimate

MAX_TECHNIQUES = 6
"""Techniques that a stack may have at most."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A goal and its constraints, as users write them."""

    goal: str
    """Name of the metric to minimise: one of `metric.METRICS`."""
    slo: Mapping[str, float] = field(default_factory=dict)
    """Upper limits by metric, in the metric's unit."""
    also: Sequence[str] = ()
    """Metrics in which a stack may be better to be worth having, beside the goal."""
    max_techniques: int = 3
    """Techniques in a stack, at most."""
    training: str | None = None
    """What may be trained at most, as the vocabulary `training` orders it; None: anything."""
    risk: str = "unknown"
    """The largest risk accepted, of `risk.RISKS`."""
    require: str | None = None
    """A query; every stack has a technique that it finds."""
    exclude: str | None = None
    """A query; no stack has a technique that it finds."""
    settings: Sequence[str] = ()
    """Techniques at settings that take the place of their default, such as `fastv:keep_ratio=0.25`."""
    described: bool = False
    """Whether a stack may have techniques that are only described, with no reference that runs."""
    milder: bool = False
    """Whether to search each technique halfway to its neutral setting too."""
    quality: Quality | None = None
    """What each technique must keep of the answers, at a setting of its curve; None: techniques at their defaults."""

    def check(self, kb: KnowledgeBase) -> None:
        """Refuse what no request could make sense of.

        Raises:
            AtlasError: a word is unknown, or a number is out of range.
        """
        if not 1 <= self.max_techniques <= MAX_TECHNIQUES:
            number = self.max_techniques
            raise AtlasError(f"the number of techniques in a stack is {number}; give one from 1 to {MAX_TECHNIQUES}")
        if self.risk not in RISKS:
            raise AtlasError(f"no risk {self.risk!r}; {suggestion(self.risk, RISKS)}")
        if self.quality is not None:
            self.quality.check(kb)
        known = [term.id for term in kb.atlas.terms("training")]
        if self.training is not None and self.training not in known:
            raise AtlasError(f"no training {self.training!r}; {suggestion(self.training, known)}")

    def metrics(self, baseline: Estimate) -> tuple[Metric, ...]:
        """The goal, and the metrics that count beside it.

        Raises:
            AtlasError: a name is unknown, or the request lacks what a metric needs.
        """
        return tuple(_metric(name, baseline) for name in (self.goal, *self.also))

    def limits(self, baseline: Estimate) -> dict[Metric, float]:
        """The upper limits.

        Raises:
            AtlasError: as of `metrics`, or a limit is no number above 0.
        """
        return {_metric(name, baseline): checked_limit(name, limit) for name, limit in self.slo.items()}


def _metric(name: str, baseline: Estimate) -> Metric:
    return metric(name, baseline.device, baseline.deployment, output=baseline.workload.output_tokens)
