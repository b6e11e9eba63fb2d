"""What techniques keep of a model's answers, read from the curves of the lab."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lvlm_atlas.schema.curve import COST, Curve, CurvePoint, TaskCurve
from lvlm_atlas.schema.record import Setting

NORMAL = 1.96
"""Standard deviations on either side of a mean that hold 95 % of a normal distribution."""
LEAST_FULL = 0.6
"""Share of its questions that the model must answer without techniques for a task to say anything."""


@dataclass(frozen=True)
class Kept:
    """Of the questions that the model answers rightly, the share that it still answers so at a setting."""

    setting: dict[str, Setting]
    cost: dict[str, float]
    """Costs as shares of those without techniques, mean over tasks and models."""
    share: float
    """Rightly answered with the technique over without, mean over tasks and models."""
    margin: float
    """Half of the 95 % interval of `share`, over samples and trained models."""
    tasks: tuple[str, ...]
    """Tasks of which this is the mean."""
    questions: int
    """Questions asked."""
    models: int
    """Trained models asked."""
    hard: int = 0
    """Questions that the model answers rightly, but not at half the resolution."""
    hard_right: int = 0
    """Those of them that it still answers rightly."""

    @property
    def hard_share(self) -> float | None:
        """The share kept of the questions that half the resolution loses; None where there are none."""
        return self.hard_right / self.hard if self.hard else None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `share`."""
        return max(0.0, self.share - self.margin), self.share + self.margin


def architecture_of(checkpoint: str) -> str:
    """The architecture of a trained model, as its id tells: `lab-llava` of `lab-llava-s0`."""
    return checkpoint.rpartition("-s")[0]


def architectures_of(curve: Curve) -> tuple[str, ...]:
    """Those of a curve's models, that of most models first."""
    models = dict.fromkeys(each.checkpoint for each in curve.tasks)
    return tuple(name for name, _ in Counter(map(architecture_of, models)).most_common())


def of_architecture(curve: Curve, architecture: str) -> Curve:
    """A curve on the models of one architecture alone."""
    tasks = tuple(each for each in curve.tasks if architecture_of(each.checkpoint) == architecture)
    return curve.model_copy(update={"tasks": tasks})


def tasks_of(curve: Curve) -> tuple[str, ...]:
    """The tasks on which a technique changes something and the models of `kept` do well enough, in order."""
    return tuple(dict.fromkeys(each.task for each in _first(curve).tasks if each.full >= LEAST_FULL * each.of))


def kept(curve: Curve, tasks: Collection[str] | None = None) -> tuple[Kept, ...]:
    """What each setting of a curve keeps, the main cost falling; empty where it has none of these tasks.

    Of models of several architectures those of its first are asked: another serves other techniques, and a mean over
    both would tell them apart by that. See `of_architecture` for the others.

    Args:
        curve: the curve.
        tasks: tasks to take the mean of; None: all of the curve's.
    """
    wanted = [name for name in tasks_of(curve) if tasks is None or name in tasks]
    curves = [each for each in _first(curve).tasks if each.task in wanted]
    settings = {tuple(sorted(point.setting.items())): point.setting for each in curves for point in each.points}
    found = [_kept(setting, curves, wanted) for setting in settings.values()]
    return tuple(sorted(found, key=lambda each: -each.cost[curve.main_cost]))


def elsewhere(curve: Curve, at: Kept, tasks: Collection[str] | None = None) -> dict[str, Kept]:
    """What a setting keeps on models of other architectures than the curve's first, where it ran on them."""
    others = {name: kept(of_architecture(curve, name), tasks) for name in architectures_of(curve)[1:]}
    return {name: each for name, settings in others.items() for each in settings if each.setting == at.setting}


def cheapest(curve: Curve, share: float, tasks: Collection[str] | None = None) -> Kept | None:
    """The setting of least main cost that keeps such a share of the answers; None where none does, or none is known."""
    enough = [each for each in kept(curve, tasks) if each.share >= share]
    return min(enough, key=lambda each: each.cost[curve.main_cost], default=None)


def _first(curve: Curve) -> Curve:
    """A curve on the models of its first architecture."""
    return of_architecture(curve, architectures_of(curve)[0]) if curve.tasks else curve


def _kept(setting: dict[str, Setting], curves: Sequence[TaskCurve], tasks: Sequence[str]) -> Kept:
    pairs = [(each, point) for each in curves for point in each.points if point.setting == setting]
    served = dict.fromkeys(each.task for each, _ in pairs)
    by_task = {name: [pair for pair in pairs if pair[0].task == name] for name in served}
    share_of = {name: _mean(point.right / each.full for each, point in ours) for name, ours in by_task.items()}
    # Of a model the mean distance from its tasks' means: another model may have other tasks.
    by_model = [
        _mean(point.right / each.full - share_of[each.task] for each, point in pairs if each.checkpoint == name)
        for name in dict.fromkeys(each.checkpoint for each, _ in pairs)
    ]
    within = sum(_variance(*pair) / len(ours) ** 2 for ours in by_task.values() for pair in ours) / len(by_task) ** 2
    mean = _mean(by_model)
    between = sum((one - mean) ** 2 for one in by_model) / (len(by_model) - 1) / len(by_model) if by_model[1:] else 0.0
    return Kept(
        setting, {name: _mean(point.cost.get(name, 1.0) for _, point in pairs) for name in COST},
        _mean(share_of.values()), NORMAL * math.sqrt(within + between), tuple(name for name in tasks if name in served),
        sum(each.of for each, _ in pairs), len(by_model), sum(each.hard for each, _ in pairs),
        sum(point.hard_right for _, point in pairs),
    )  # fmt: skip


def _variance(task: TaskCurve, point: CurvePoint) -> float:
    """Of right over full, from the questions on which the two differ: those that agree tell nothing of it."""
    changed, moved = point.lost + point.gained, point.gained - point.lost
    return (changed - moved**2 / task.of) / task.full**2


def _mean(numbers: Iterable[float]) -> float:
    several = list(numbers)
    return sum(several) / len(several)
