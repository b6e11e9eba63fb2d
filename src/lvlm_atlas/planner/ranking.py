"""Which stacks are better: costs held against a goal, further metrics and limits. Nothing here is put into words."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping

from lvlm_atlas.planner.front import Point, Tie, dominates, pareto, step_end, steps
from lvlm_atlas.planner.metric import Metric
from lvlm_atlas.planner.plan import Limit
from lvlm_atlas.planner.search import Stack
from lvlm_atlas.planner.stack_risk import StackRisk
from lvlm_atlas.roofline.costs import Cost, Costs
from lvlm_atlas.roofline.estimate import Estimate

Rank = tuple[float, ...]


class Ranking:
    """Orders stacks by a goal, exactly, from bounds wherever they decide.

    Args:
        costs: what stacks cost.
        baseline: the estimate without techniques.
        goal: the metric to minimise.
        also: metrics that count for the front beside the goal.
        limits: upper limits by metric, in the metric's unit.
        stacks: the stacks to rank.
        risk: the risk of each.
    """

    def __init__(
        self, costs: Costs, baseline: Estimate, goal: Metric, also: Iterable[Metric], limits: Mapping[Metric, float],
        stacks: Iterable[Stack], risk: StackRisk,
    ) -> None:  # fmt: skip
        self.costs, self.baseline, self.goal, self.limits, self.risk = costs, baseline, goal, limits, risk
        self.base = costs.of(0)
        """What the request costs without techniques."""
        self._fields = tuple(dict.fromkeys(metric.field for metric in (goal, *also)))
        memory = () if self.fits(self.base) else ("device_byte",)  # else hardly a stack is too large
        self._bounded = frozenset((*self._fields, *(metric.field for metric in limits), *memory))
        bounds = [(costs.floor(stack.bits, self._bounded, rough=True), stack) for stack in stacks]
        self._ascending = sorted(bounds, key=lambda each: (self._goal_of(each[0]), each[1].count, each[1].bits))
        """All stacks with rough lower bounds of their costs, in the order of that of the goal."""

    def __len__(self) -> int:
        return len(self._ascending)

    def fits(self, cost: Cost) -> bool:
        """Whether a device holds it."""
        return cost.device_byte <= self.baseline.usable_byte

    def value(self, metric: Metric, cost: Cost) -> float:
        """A metric of a cost, in the metric's unit: in proportion to that of the request without techniques."""
        now, before = getattr(cost, metric.field), getattr(self.base, metric.field)
        return metric.of(self.baseline) * now / before if before else 0.0

    def exceeded(self, cost: Cost) -> Limit | None:
        """The first limit that is exceeded."""
        for metric, most in self.limits.items():
            limit = Limit(metric, most, self.value(metric, cost))
            if not limit.met:
                return limit
        return None

    def steps(self, cost: Cost) -> int:
        """The goal, in steps from that without techniques."""
        return steps(self._goal_of(cost), self._goal_of(self.base))

    def point(self, stack: Stack, cost: Cost | None = None, *, least: bool = False) -> Point:
        """What decides whether another stack is better: limits, goal, further metrics, risk, strength and number.

        Args:
            stack: the stack.
            cost: what it costs, or a lower bound; None: what it costs.
            least: whether a lower bound of the risk will do, which takes less to find.
        """
        risk = stack.risk if least else self.risk.of(stack)
        cost = cost or self.costs.of(stack.bits)
        figures = [steps(getattr(cost, field), getattr(self.base, field)) for field in self._fields]
        return (self._excess(cost), *figures, risk, stack.full, stack.count)

    def rank(self, stack: Stack) -> Rank:
        """The goal first, in the steps that count; among equals less risk, fewer techniques, less time."""
        cost = self.costs.of(stack.bits)
        return self.steps(cost), self.risk.of(stack), stack.full, stack.count, *self._tie(stack, cost)

    def front(self) -> list[Stack]:
        """The stacks that fit, keep every limit and are dominated by no other, in the plan's order.

        Where no stack keeps every limit, those that come nearest in some respect. Empty if no stack fits.
        """
        front = self._front(strict=True) or (self._front(strict=False) if self.limits else [])
        return sorted(front, key=self._order)

    def best(self, among: Callable[[Stack], bool], count: int) -> list[Stack]:
        """The stacks of those that fit and rank first."""
        best: list[tuple[Rank, Stack]] = []
        ceiling = math.inf
        last: Rank = (math.inf,)
        for rough, stack in self._ascending:
            if self._goal_of(rough) > ceiling:
                break
            if not among(stack) or self._least_rank(stack, rough) > last:
                continue
            if self._least_rank(stack, self._floor(stack)) > last or not self.fits(self.costs.of(stack.bits)):
                continue
            if not self.risk.accepts(stack):
                continue
            insort(best, (self.rank(stack), stack))
            del best[count:]
            if len(best) == count:
                last = best[-1][0]
                ceiling = step_end(int(last[0]), self._goal_of(self.base))
        return [stack for _, stack in best]

    def dominator(self, stack: Stack, front: Iterable[Stack]) -> Stack | None:
        """The first stack of a front that is nowhere worse."""
        point = self.point(stack)
        return next((other for other in front if dominates(self.point(other), point)), None)

    def _front(self, *, strict: bool) -> list[Stack]:
        # What does not fit, or exceeds a limit, even by a lower bound need not be looked at.
        rough = {
            stack: cost for cost, stack in self._ascending if self.fits(cost) and not (strict and self.exceeded(cost))
        }
        kinds = {(stack.risk, stack.full, stack.count) for stack in rough}
        ends: dict[tuple[int, int, int], float] = {}
        """Where the goal alone counts: above which of its figures a stack of a risk and a size is dominated."""

        def contenders() -> Iterator[Stack]:
            for stack, cost in rough.items():
                if self._goal_of(cost) <= ends.get((stack.risk, stack.full, stack.count), math.inf):
                    yield stack

        def bounds(stack: Stack) -> Iterator[tuple[Point, Tie]]:
            yield self.point(stack, rough[stack], least=True), (self._goal_of(rough[stack]),)
            floor = self._floor(stack)
            yield self.point(stack, floor, least=True), (self._goal_of(floor),)

        def exact(stack: Stack) -> tuple[Point, Tie] | None:
            if strict and self.exceeded(self._floor(stack)):
                return None
            cost = self.costs.of(stack.bits)
            if not self.fits(cost) or (strict and self.exceeded(cost)) or not self.risk.accepts(stack):
                return None
            point = self.point(stack, cost)
            if len(self._fields) == 1 and not self.limits:
                end = step_end(point[1], self._goal_of(self.base))
                for kind in kinds:
                    if point[2] <= kind[0] and stack.full <= kind[1] and stack.count <= kind[2]:
                        ends[kind] = min(end, ends.get(kind, math.inf))
            return point, self._tie(stack, cost)

        return [*pareto(contenders(), bounds, exact)]

    def _order(self, stack: Stack) -> Rank:
        """Where limits are exceeded, nearest to them first; then best at the goal, but for how sums are rounded."""
        cost = self.costs.of(stack.bits)
        return self._excess(cost), float(f"{self._goal_of(cost):.9g}"), *self.rank(stack)

    def _excess(self, cost: Cost) -> int:
        """Steps by which the worst limit is exceeded; 0 where all are kept."""
        if not self.limits:
            return 0
        return max([0, *(steps(self.value(metric, cost), most) for metric, most in self.limits.items())])

    def _tie(self, stack: Stack, cost: Cost) -> Tie:
        return self._goal_of(cost), cost.total_s, stack.bits

    def _floor(self, stack: Stack) -> Cost:
        return self.costs.floor(stack.bits, self._bounded)

    def _least_rank(self, stack: Stack, floor: Cost) -> Rank:
        """What `rank` begins with at least, for lower bounds of the cost."""
        return self.steps(floor), stack.risk, stack.full, stack.count, self._goal_of(floor)

    def _goal_of(self, cost: Cost) -> float:
        figure: float = getattr(cost, self.goal.field)
        return figure
