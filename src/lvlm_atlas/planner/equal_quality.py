"""Techniques at the settings that keep the same share of answers, as the lab has measured it on small models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.warnings import vision_left
from lvlm_atlas.roofline.estimate import Estimate, estimate
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.answers import Kept, cheapest, kept, tasks_of
from lvlm_atlas.specs.joint import record_of, together
from lvlm_atlas.specs.stack import Choice
from lvlm_atlas.specs.technique import applied

NEAR = 0.05
"""How far the share that a number leaves of a request may lie from that of the curve."""
SPARED = 0.98
"""Share of a cost above which nothing counts as taken away."""
IDLE = "takes away nothing in the lab's short requests, but would here, so what it keeps then is not known"


@dataclass(frozen=True)
class Quality:
    """What must be kept.

    Args:
        share: of the answers that are right without techniques, above 0 and at most 1.
        task: of which task of the lab; None: the mean of those that a technique serves.
    """

    share: float
    task: str | None = None

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """The tasks that this is about; None: all."""
        return None if self.task is None else (self.task,)

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

    A whole number, such as a budget of tokens, is another share of another request: the number that leaves as large a
    share of the vision tokens, or of the cache, takes its place. How many tokens are drafted means the same anywhere.

    Args:
        kb: the techniques, with their curves.
        technique: the technique.
        quality: what must be kept.
        baseline: the request without techniques.
    """
    if technique.id not in kb.atlas.curves:
        return "has no curve, so what it keeps of the answers is not known"
    curve: Curve = kb.atlas.curves[technique.id]
    if curve.untuned:
        return "its paper trains the model for it; its curve is that of models that were not"
    tasks = quality.tasks
    settings = kept(curve, tasks)
    if not settings:
        return "changes nothing on that task, or declines it" if tasks else "has no task on which it changes anything"
    found = cheapest(curve, quality.share, tasks)
    if found is None:
        return f"keeps {max(each.share for each in settings):.0%} of the answers at most, of the settings that were run"
    parameter = technique.parameters.get(curve.knob or "")
    drafts = curve.main_cost == "target_passes"
    if parameter is None or parameter.type != "int" or parameter.choices or drafts or _quantises(kb, technique):
        return Equal(Choice(technique, found.setting), found) if _bites_alike(kb, technique, found, baseline) else IDLE
    if curve.main_cost not in _LEFT:
        return f"its `{curve.knob}` is a number, and what it leaves of another request cannot be held against its curve"
    wanted, left = found.cost[curve.main_cost], _LEFT[curve.main_cost]
    budgets = [
        found.setting | {str(curve.knob): budget}
        for budget in _budgets(found.setting.get(str(curve.knob), parameter.default))
        if not parameter.problem_with(budget)
    ]
    shares = [left(baseline, _with(kb, technique, setting, baseline)) for setting in budgets]
    share, setting = min(zip(shares, budgets, strict=True), key=lambda pair: abs(pair[0] - wanted))
    if abs(share - wanted) > NEAR:
        return f"leaves {share:.0%} of this request at its nearest setting, where its curve has {wanted:.0%}"
    return Equal(Choice(technique, setting), found)


def harmful(kb: KnowledgeBase, answers: Mapping[str, Kept], quality: Quality) -> dict[frozenset[str], str]:
    """The pairs that were measured to lose more than the sum, and keep less than enough for it, with the reason.

    Args:
        kb: the techniques, with their records.
        answers: what each technique that is searched keeps alone.
        quality: what must be kept.
    """
    found = {}
    for pair in combinations(answers, 2):
        record = record_of(kb.atlas.stacks, pair)
        if record is None or record.verdict != "harmful":
            continue
        kept_ = together(kb.atlas.stacks, {id_: answers[id_] for id_ in pair}, quality.tasks)
        if kept_.share < quality.share:
            found[frozenset(pair)] = (
                f"measured on the lab's models to lose {record.departure.value:.0%} of the answers more than in sum, "
                f"so that {kept_.share:.0%} are kept (record {record.id})"
            )
    return found


def _with(kb: KnowledgeBase, technique: Technique, setting: dict[str, Setting], baseline: Estimate) -> Estimate:
    stack = [applied(kb.atlas, technique, setting)]
    return estimate(baseline.model, baseline.device, baseline.workload, baseline.deployment, stack)


def _quantises(kb: KnowledgeBase, technique: Technique) -> bool:
    """Whether it changes what an entry of the cache takes, so that bytes do not tell how many there are."""
    return bool(applied(kb.atlas, technique).cache_bits)


def _bites_alike(kb: KnowledgeBase, technique: Technique, found: Kept, baseline: Estimate) -> bool:
    """Whether a technique that took nothing away in the lab's short requests takes nothing away here either."""
    if _quantises(kb, technique):
        return True
    after = _with(kb, technique, found.setting, baseline)
    return all(found.cost[cost] < SPARED or left(baseline, after) >= SPARED for cost, left in _LEFT.items())


def _cache_left(before: Estimate, after: Estimate) -> float:
    return after.memory.kv_byte / before.memory.kv_byte if before.memory.kv_byte else 1.0


_LEFT: Mapping[str, Callable[[Estimate, Estimate], float]] = {"vision_tokens": vision_left, "kv_byte": _cache_left}
"""What a stack leaves, by the cost that tells it."""


def _budgets(value: Setting) -> list[int]:
    """Whole numbers from a sixteenth of a budget to 4,096 times it, each some 9 % above the one before."""
    base = value if isinstance(value, int | float) else 1
    return sorted({max(1, round(base * 2 ** (step / 8))) for step in range(-32, 97)})
