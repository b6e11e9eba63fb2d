"""Techniques at the settings that keep the same share of answers, as the lab has measured it on small models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.warnings import vision_left
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.answers import Kept, cheapest, kept, tasks_of
from lvlm_atlas.specs.stack import Choice
from lvlm_atlas.specs.technique import applied

BUDGET_UNIT = "token"
"""Unit of parameters that are budgets."""


@dataclass(frozen=True)
class Quality:
    """What must be kept.

    Args:
        share: of the answers that are right without techniques, above 0 and at most 1.
        task: of which task of the lab; None: the mean of those that a technique serves.
    """

    share: float
    task: str | None = None

    def check(self, kb: KnowledgeBase) -> None:
        """Refuse what no curve could answer.

        Raises:
            AtlasError: the share is out of range, no curve is there, or none has the task.
        """
        if not 0 < self.share <= 1:
            raise AtlasError(f"the quality to keep is {self.share}; give a share above 0 and at most 1, such as 0.95")
        known = dict.fromkeys(name for curve in kb.atlas.curves.values() for name in tasks_of(curve))
        if not known:
            raise AtlasError("this catalog has no curves; `lvlm-atlas lab run` makes them")
        if self.task is not None and self.task not in known:
            raise AtlasError(f"no task {self.task!r} in any curve; {suggestion(self.task, known, known)}")


@dataclass(frozen=True)
class Equal:
    """A technique at the cheapest setting that keeps enough."""

    choice: Choice
    kept: Kept
    """At that setting, on the lab's models."""


def at_quality(kb: KnowledgeBase, technique: Technique, quality: Quality, baseline: Estimate) -> Equal | str:
    """A technique at the cheapest setting of its curve that keeps enough, or why there is none.

    A budget in tokens is another share of another request: the nearest budget that leaves as large a share of the
    vision tokens, or of the cache, takes its place.

    Args:
        kb: the techniques, with their curves.
        technique: the technique.
        quality: what must be kept.
        baseline: the request without techniques.
    """
    if technique.id not in kb.atlas.curves:
        return "has no curve, so what it keeps of the answers is not known"
    curve: Curve = kb.atlas.curves[technique.id]
    tasks = None if quality.task is None else (quality.task,)
    settings = kept(curve, tasks)
    if not settings:
        return "changes nothing on that task, or declines it" if tasks else "has no task on which it changes anything"
    found = cheapest(curve, quality.share, tasks)
    if found is None:
        return f"keeps {max(each.share for each in settings):.0%} of the answers at most, of the settings that were run"
    parameter = technique.parameters.get(curve.knob or "")
    if parameter is None or parameter.unit != BUDGET_UNIT or curve.main_cost not in _LEFT:
        return Equal(Choice(technique, found.setting), found)
    wanted, left = found.cost[curve.main_cost], _LEFT[curve.main_cost]

    def distance(setting: dict[str, Setting]) -> float:
        stack = [applied(kb.atlas, technique, setting)]
        after = estimate(baseline.model, baseline.device, baseline.workload, baseline.deployment, stack)
        return abs(left(baseline, after) - wanted)

    value = found.setting.get(str(curve.knob), parameter.default)
    budgets = [
        found.setting | {str(curve.knob): budget} for budget in _budgets(value) if not parameter.problem_with(budget)
    ]
    return Equal(Choice(technique, min(budgets, key=distance)), found)


def _cache_left(before: Estimate, after: Estimate) -> float:
    return after.memory.kv_byte / before.memory.kv_byte if before.memory.kv_byte else 1.0


_LEFT: Mapping[str, Callable[[Estimate, Estimate], float]] = {"vision_tokens": vision_left, "kv_byte": _cache_left}
"""What a stack leaves, by the cost that tells it."""


def _budgets(value: Setting) -> list[int]:
    """Whole numbers from a sixteenth of a budget to 4,096 times it, each some 9 % above the one before."""
    base = value if isinstance(value, int | float) else 1
    return sorted({max(1, round(base * 2 ** (step / 8))) for step in range(-32, 97)})
