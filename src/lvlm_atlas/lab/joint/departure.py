"""How far the loss of techniques together is from the sum of their losses, with a paired bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lvlm_atlas.schema.stack import Departure, StackTask

DRAWS = 4000
"""Resamples of the bootstrap."""
LEVEL = 0.95
DIGITS = 4
Right = NDArray[np.int64]


def departure(tasks: Sequence[StackTask]) -> Departure:
    """The joint loss less the sum of the losses, mean over tasks, of each over the models that have it.

    A loss is one less the questions answered rightly over those without techniques. Samples are drawn again with all of
    their questions, the same for each technique, for all of them and for every model; models are drawn again too.

    Args:
        tasks: what was answered rightly; models may have tasks that others lack.
    """
    random = np.random.default_rng(0)
    sizes = dict.fromkeys((each.task, each.samples) for each in tasks)
    drawn = {size: random.integers(size[1], size=(DRAWS, size[1])) for size in sizes}
    models = [*dict.fromkeys(each.checkpoint for each in tasks)]
    chosen_DM = random.multinomial(len(models), np.full(len(models), 1 / len(models)), size=DRAWS)
    values, agains = [], []
    for name in dict.fromkeys(each.task for each in tasks):
        rows = [each for each in tasks if each.task == name]
        values.append(np.mean([_difference(each, np.arange(each.samples)[None]) for each in rows]))
        again_DR = np.stack([_difference(each, drawn[each.task, each.samples]) for each in rows], axis=1)
        often_DR = chosen_DM[:, [models.index(each.checkpoint) for each in rows]]
        count_D = often_DR.sum(axis=1)
        agains.append(np.where(count_D > 0, (again_DR * often_DR).sum(axis=1) / np.maximum(count_D, 1), np.nan))
    low, high = np.quantile(np.nanmean(agains, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Departure(value=_rounded(np.mean(values)), low=_rounded(low), high=_rounded(high))


def kept(tasks: Sequence[StackTask]) -> tuple[tuple[float, ...], float]:
    """The share of right answers kept by each technique alone, and by all together: mean over tasks, and models."""
    rows = [
        [answers.count("1") / max(1, each.full.count("1")) for answers in (*each.alone, each.joint)] for each in tasks
    ]
    names = [*dict.fromkeys(each.task for each in tasks)]
    by_task = [[row for row, each in zip(rows, tasks, strict=True) if each.task == name] for name in names]
    *alone, joint = np.mean([np.mean(ours, axis=0) for ours in by_task], axis=0)
    return tuple(_rounded(share) for share in alone), _rounded(joint)


def _difference(task: StackTask, drawn_DS: Right) -> NDArray[np.float64]:
    """Joint loss less the sum of the losses, for samples that are drawn, a row a time."""
    full_D, joint_D, *alone = (
        _right(answers, task.samples)[drawn_DS].sum(axis=1) for answers in (task.full, task.joint, *task.alone)
    )
    lost = full_D - joint_D - sum(full_D - alone_D for alone_D in alone)
    share_D: NDArray[np.float64] = lost / np.maximum(full_D, 1)
    return share_D


def _right(answers: str, samples: int) -> Right:
    """Questions of each sample that are answered rightly."""
    right_S: Right = np.array([*map(int, answers)]).reshape(samples, -1).sum(axis=1)
    return right_S


def _rounded(number: float) -> float:
    return round(float(number), DIGITS) + 0.0  # no minus before a zero
