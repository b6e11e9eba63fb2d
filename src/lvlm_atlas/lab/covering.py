"""Stacks in which every compatible ordered pair of techniques stands at least once.

Running each pair alone is quadratic in runs; a stack of six holds fifteen ordered pairs. Such a pair has been *seen
together in a stack*: that its effects compose there does not say what each does beside the other alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from pkgutil import resolve_name
from typing import TypeVar

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.lab.conformance import item
from lvlm_atlas.lab.settings import SHAPES
from lvlm_atlas.lab.verification import Plan, StackJob
from lvlm_atlas.reference.lvlm.stack import Stack
from lvlm_atlas.reference.lvlm.technique import Technique as Acting
from lvlm_atlas.reference.refusal import StackError
from lvlm_atlas.schema.technique import Technique

Member = TypeVar("Member")

SIZE = 6
"""Most techniques in a stack."""
RUNS = 2
"""Runs of a stack that must go through, each on a request of another shape."""


def covering(
    members: Sequence[Member], compatible: Collection[tuple[Member, Member]], size: int = SIZE
) -> list[tuple[Member, ...]]:
    """Stacks of at most `size`, all of whose ordered pairs are compatible and which together hold all that are.

    Greedy, in an order drawn with a fixed seed: each stack starts with a pair not seen yet and takes whoever adds most
    pairs not seen yet, at the place where it does.

    Args:
        members: what stacks are made of.
        compatible: the ordered pairs that may stand in one stack, the first before the second.
        size: most members of a stack.
    """
    order = list(members)
    random.Random(0).shuffle(order)  # noqa: S311 - nothing secret
    unseen = dict.fromkeys((one, two) for one in order for two in order if (one, two) in compatible)
    stacks: list[tuple[Member, ...]] = []
    while unseen:
        stack: tuple[Member, ...] = next(iter(unseen))
        while len(stack) < size:
            options = [(*_place(each, stack, unseen, compatible), each) for each in order if each not in stack]
            gain, at, best = max(options, key=lambda option: option[0], default=(0, 0, None))
            if not gain or best is None:
                break
            stack = (*stack[:at], best, *stack[at:])
        for position, two in enumerate(stack):
            for one in stack[:position]:
                unseen.pop((one, two), None)
        stacks.append(stack)
    return stacks


def _place(
    new: Member,
    stack: tuple[Member, ...],
    unseen: Collection[tuple[Member, Member]],
    compatible: Collection[tuple[Member, Member]],
) -> tuple[int, int]:
    """How many unseen pairs a new member adds to a stack at most, and the index at which it does."""
    before = [(other, new) for other in stack]
    after = [(new, other) for other in stack]
    gain, best = sum(pair in unseen for pair in after), (0, 0)
    first = max((at + 1 for at, pair in enumerate(after) if pair not in compatible), default=0)
    last = next((at for at, pair in enumerate(before) if pair not in compatible), len(stack))
    for at in range(len(stack) + 1):
        if first <= at <= last:
            best = max(best, (gain, at))
        if at < len(stack):
            gain += (before[at] in unseen) - (after[at] in unseen)
    return best


def refusals(techniques: Iterable[Technique]) -> dict[tuple[str, str], str | None]:
    """For each ordered pair of ids, why the reference refuses to stack the two; None where it does not.

    Nothing is run: this is what the constructor of a stack says.
    """
    built = {each.id: resolve_name(str(each.reference))(**each.trials[0]) for each in techniques}
    return {
        (one, two): _refusal(first, second)
        for one, first in built.items()
        for two, second in built.items()
        if one != two
    }


def _refusal(first: Acting, second: Acting) -> str | None:
    try:
        Stack((first, second))
    except StackError as error:
        return str(error)
    return None


def job_for(atlas: Atlas, techniques: Sequence[Technique], dtype: str, device: str) -> StackJob:
    """Runs of a stack, on greedy requests of several shapes until `RUNS` have gone through.

    Each technique has the setting of its first trial: several reductions at extreme settings would leave the next
    nothing to act on. Pairs are where every trial is run.
    """
    shapes = [shape for shape in SHAPES if not shape.temperature]
    random.Random("+".join(each.id for each in techniques)).shuffle(shapes)  # noqa: S311 - nothing secret
    plans = tuple(Plan(settings=tuple(each.trials[0] for each in techniques), shape=shape) for shape in shapes)
    items = tuple(item(atlas, each) for each in techniques)
    return StackJob.model_validate(
        {"items": items, "plans": plans, "dtype": dtype, "device": device, "enough": RUNS, "ablate": False}
    )


def smallest(job: StackJob, fails: Callable[[StackJob], object]) -> StackJob:
    """The part of a failing stack that still fails, and without any of whose members no longer: mostly a pair.

    Args:
        job: the runs of a stack that fails.
        fails: whether the runs of a part do.
    """
    at = 0
    while at < len(job.items) and len(job.items) > 1:
        part = _without(job, at)
        if fails(part):
            job = part
        else:
            at += 1
    return job


def in_other_order(job: StackJob) -> StackJob:
    """The same runs with the techniques the other way round."""
    plans = tuple(plan.model_copy(update={"settings": plan.settings[::-1]}) for plan in job.plans)
    return job.model_copy(update={"items": job.items[::-1], "plans": plans})


def without(job: StackJob, technique: str) -> StackJob:
    """The same runs without the technique of that id."""
    return _without(job, [each.technique.id for each in job.items].index(technique))


def _without(job: StackJob, at: int) -> StackJob:
    """The same runs without the technique at an index."""
    plans = tuple(
        plan.model_copy(update={"settings": plan.settings[:at] + plan.settings[at + 1 :]}) for plan in job.plans
    )
    return job.model_copy(update={"items": job.items[:at] + job.items[at + 1 :], "plans": plans})
