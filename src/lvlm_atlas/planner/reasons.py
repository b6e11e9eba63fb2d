"""Why stacks and techniques are not in a plan, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lvlm_atlas.planner.front import STEP, steps
from lvlm_atlas.planner.plan import Lost
from lvlm_atlas.planner.ranking import Ranking
from lvlm_atlas.planner.risk import RISKS
from lvlm_atlas.planner.search import Search, Stack
from lvlm_atlas.roofline.costs import Cost
from lvlm_atlas.roofline.stage import STAGES
from lvlm_atlas.roofline.units import share

RUNNERS_UP = 5
"""Stacks besides the front of which the plan says why they are not on it."""


class Reasons:
    """Says why what was searched is not on the front.

    Args:
        search: what was searched.
        ranking: how its stacks were ranked.
        front: the stacks of the front, the empty one among them if no other beats it, in the plan's order.
    """

    def __init__(self, search: Search, ranking: Ranking, front: Sequence[Stack]) -> None:
        self.search, self.ranking, self.front = search, ranking, front

    def runners_up(self) -> Iterator[Lost]:
        """The best stacks at the goal that are not on the front."""
        shown = {0, *(stack.bits for stack in self.front)}
        for stack in self.ranking.best(lambda stack: stack.bits not in shown, RUNNERS_UP):
            yield Lost(self._label(stack), *self._lost(stack))

    def unused(self) -> Iterator[Lost]:
        """The techniques that are in no stack of the front."""
        used = {each.id for stack in self.front for each in self.search.members(stack)}
        for id_ in dict.fromkeys(each.id for each in self.search.candidates):
            if id_ not in used:
                yield self._unused(id_)

    def conflicts(self) -> Iterator[Lost]:
        """The pairs of techniques that cannot share a stack."""
        for pair, verdict in self.search.verdicts.items():
            if verdict.value == "breaks":
                yield Lost(" × ".join(sorted(pair)), "conflict", verdict.edges[0].reason)
        for pair, why in self.search.barred.items():
            yield Lost(" × ".join(sorted(pair)), "answers", why)

    def _unused(self, id_: str) -> Lost:
        settings = self.search.bits(id_)
        bits = [1 << i for i in range(len(self.search.candidates)) if settings >> i & 1]
        goal = self.ranking.goal.field
        alone = min((self.ranking.costs.of(bit) for bit in bits), key=lambda cost: getattr(cost, goal))
        if why := no_gain(self.ranking, alone):
            return Lost(id_, "no-gain", why)
        best = self.ranking.best(lambda stack: bool(stack.bits & settings), 1)
        if not best:
            if any(self.ranking.fits(self.ranking.costs.of(bit)) for bit in bits):
                return Lost(id_, "left-out", "it leaves fewer vision tokens than its sources report on")
            return Lost(id_, "memory", f"no stack with it fits on {self.ranking.baseline.device.name}")
        kind, why = self._lost(best[0])
        return Lost(id_, kind, why if best[0].count == 1 else f"at best {self._label(best[0])}, {why}")

    def _lost(self, stack: Stack) -> tuple[str, str]:
        """Why a stack that fits is not on the front: the kind of reason, and the reason."""
        if better := self.ranking.dominator(stack, self.front):
            return "dominated", f"dominated by {self._label(better)}: {', '.join(self._better(better, stack))}"
        return "limit", str(self.ranking.exceeded(self.ranking.costs.of(stack.bits)))

    def _better(self, better: Stack, stack: Stack) -> Iterator[str]:
        """In what a stack is better than another that it dominates."""
        ranking, goal = self.ranking, self.ranking.goal
        costs = [ranking.costs.of(each.bits) for each in (better, stack)]
        values = [goal.shown(ranking.value(goal, cost)) for cost in costs]
        against = f"{values[0]} instead of {values[1]}"
        if ranking.steps(costs[0]) == ranking.steps(costs[1]):
            yield f"{goal.name} within {share(STEP)}" + ("" if values[0] == values[1] else f", {against}")
        else:
            yield (
                f"{goal.name} {against}"
                if values[0] != values[1]
                else f"{goal.name} less by a few steps of {share(STEP)}"
            )
        if (fewer := stack.count - better.count) > 0:
            yield "one technique fewer" if fewer == 1 else f"{fewer} techniques fewer"
        risks = [ranking.risk.of(each) for each in (better, stack)]
        if risks[0] < risks[1]:
            yield f"risk `{RISKS[risks[0]]}` instead of `{RISKS[risks[1]]}`"

    def _label(self, stack: Stack) -> str:
        return " + ".join(each.applied.label for each in self.search.members(stack)) or "no technique"


def no_gain(ranking: Ranking, alone: Cost) -> str | None:
    """Why a technique does nothing for the goal; None if it does something.

    Args:
        ranking: what is aimed at.
        alone: the cost of the technique alone.
    """
    base, field, goal = ranking.base, ranking.goal.field, ranking.goal.name
    now, before = getattr(alone, field), getattr(base, field)
    change = steps(now, before)
    if change < 0:
        return None
    if before and change > 0:
        if ranking.goal.more:
            return f"it lowers {goal} to {before / now:.2f} times what it is"
        return f"it makes {goal} {now / before:.2f}× as large"
    times = [(name, getattr(alone, f"{name}_s"), getattr(base, f"{name}_s")) for name in STAGES]
    saved = [(old - new, name, old, new) for name, new, old in times if steps(new, old) < 0]
    if not saved:
        slower = [(new / old, name) for name, new, old in times if old and steps(new, old) > 0]
        if slower:
            ratio, name = max(slower)
            return f"it makes no stage faster, and {name} take {ratio:.2f}× as long"
        return f"it changes no stage by {share(STEP)}"
    _, name, old, new = max(saved)
    gained = f"it makes {name} {old / new:.2f}× as fast" if new else f"it removes {name}"
    if field == "total_s":
        return f"{gained}, which is {share(old / base.total_s)} of the total"
    if field == "ttft_s" and name != "decoding":
        return f"{gained}, which is {share(old / base.ttft_s)} of ttft"
    return f"{gained}, which is no part of {goal}"
