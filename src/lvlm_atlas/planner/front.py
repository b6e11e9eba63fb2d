"""The Pareto front of points whose every coordinate is better when it is smaller, found from bounds where they do."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

Point = tuple[int, ...]
Name = TypeVar("Name", bound=Hashable)
Tie = tuple[Any, ...]
"""Orders names whose points are equal. That of a bound may be shorter, and then comes before all that it begins."""

STEP = 0.01
"""Share by which figures must differ to count as different: a roofline tells no finer."""
_ENDS = 10**6
"""Steps from nothing to something."""
_LOG_STEP = math.log1p(STEP)


def steps(figure: float, base: float) -> int:
    """A figure in steps of `STEP` from that without techniques: small differences are none."""
    if figure == base:
        return 0
    if not base or not figure:
        return -_ENDS if figure < base else _ENDS
    return round(math.log(figure / base) / _LOG_STEP)


def step_end(step: int, base: float) -> float:
    """A figure above which all are more than so many steps from `base`."""
    if not base or step >= _ENDS:
        return math.inf
    return base * math.exp((step + 0.5) * _LOG_STEP) * (1 + 1e-9)


def dominates(one: Sequence[int], two: Sequence[int]) -> bool:
    """Whether `one` is nowhere worse than `two`. Equal points dominate each other."""
    for a, b in zip(one, two, strict=True):  # noqa: SIM110  twice as fast as all(), and most of a search
        if a > b:
            return False
    return True


def pareto(
    names: Iterable[Name],
    bounds: Callable[[Name], Iterator[tuple[Point, Tie]]],
    exact: Callable[[Name], tuple[Point, Tie] | None],
) -> dict[Name, Point]:
    """The points that no other dominates; of equal points, that with the least tie.

    Args:
        names: what is compared. The order changes the work alone: good ones first save most.
        bounds: lower bounds on a point and its tie, each at least as tight as the one before. Those that follow are
            not asked for once one is dominated.
        exact: the point and its tie; None if it does not count.
    """
    front: dict[Name, tuple[Point, Tie]] = {}

    def beaten(point: Point, tie: Tie) -> bool:
        for better, least in front.values():  # noqa: SIM110  twice as fast as any(), and most of a search
            if dominates(better, point) and (better != point or least < tie):
                return True
        return False

    for name in names:
        if any(beaten(*bound) for bound in bounds(name)):
            continue
        result = exact(name)
        if result is None or beaten(*result):
            continue
        for other in [other for other, (point, _) in front.items() if dominates(result[0], point)]:
            del front[other]
        front[name] = result
    return {name: point for name, (point, _) in front.items()}
