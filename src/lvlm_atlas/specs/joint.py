"""What stacks keep of a model's answers: the sum of what each technique loses alone, and what was measured together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from lvlm_atlas.schema.stack import MeasuredStack, StackTask
from lvlm_atlas.specs.answers import Kept


@dataclass(frozen=True)
class KeptTogether:
    """Of the questions that the model answers rightly, the share that it is expected to answer so with a stack."""

    share: float
    """One less the sum of the losses and of the departures from it that were measured."""
    margin: float
    """Half of its 95 % interval."""
    records: tuple[str, ...]
    """Ids of the records that say how far it is from the sum; those of pairs, where the whole stack has none."""
    unmeasured: tuple[tuple[str, str], ...]
    """Pairs of which no record says it; their losses are taken to add up."""


def stack_id(ids: Iterable[str]) -> str:
    """What the record of some techniques is called."""
    return ".".join(sorted(ids))


def record_of(stacks: Mapping[str, MeasuredStack], ids: Collection[str]) -> MeasuredStack | None:
    """The record of some techniques together."""
    return stacks.get(stack_id(ids))


def departure(stack: MeasuredStack, tasks: Collection[str] | None = None) -> float | None:
    """How far the joint loss of a record is from the sum, mean over tasks, and models; above 0 more is lost together.

    Args:
        stack: the record.
        tasks: tasks to take the mean of; None: all. None is returned where it has none of them.
    """
    by_task = dict[str, list[float]]()
    for each in stack.tasks:
        if tasks is None or each.task in tasks:
            by_task.setdefault(each.task, []).append(_departure(each))
    return fmean(map(fmean, by_task.values())) if by_task else None


def together(
    stacks: Mapping[str, MeasuredStack], answers: Mapping[str, Kept], tasks: Collection[str] | None = None
) -> KeptTogether:
    """What a stack is expected to keep.

    A departure was measured at the settings of its record; here it counts at those that are planned.

    Args:
        stacks: the records.
        answers: what each technique of the stack keeps alone at its setting.
        tasks: tasks that this is about; None: all.
    """
    whole = record_of(stacks, answers)
    groups = [tuple(answers)] if whole else [*combinations(answers, 2)]
    found = {ids: record_of(stacks, ids) for ids in groups}
    counted = [(each, off) for each in found.values() if each and (off := departure(each, tasks)) is not None]
    spread = [each.margin for each in answers.values()]
    spread += [(each.departure.high - each.departure.low) / 2 for each, _ in counted]
    return KeptTogether(
        1 - sum(1 - each.share for each in answers.values()) - sum(off for _, off in counted), math.hypot(*spread),
        tuple(each.id for each, _ in counted), tuple((ids[0], ids[1]) for ids, each in found.items() if each is None),
    )  # fmt: skip


def _departure(task: StackTask) -> float:
    full = task.full.count("1")
    lost = [full - answers.count("1") for answers in (task.joint, *task.alone)]
    return (lost[0] - sum(lost[1:])) / max(1, full)
