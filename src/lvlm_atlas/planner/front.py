"""What is better: the Pareto front of points whose every coordinate is better when it is smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Point = tuple[int, ...]
Name = TypeVar("Name", bound=Hashable)

STEP = 0.01
"""Share by which figures must differ to count as different: a roofline tells no finer."""


def steps(figure: float, base: float) -> int:
    """A figure in steps of `STEP` from that without techniques: small differences are none."""
    if figure == base:
        return 0
    if not base or not figure:
        return -(10**6) if figure < base else 10**6
    return round(math.log(figure / base) / math.log1p(STEP))


def dominates(one: Sequence[int], two: Sequence[int]) -> bool:
    """Whether `one` is nowhere worse than `two`. Equal points dominate each other."""
    return all(a <= b for a, b in zip(one, two, strict=True))


def pareto(
    least: Iterable[tuple[Point, Name]], exact: Callable[[Name], Point | None]
) -> tuple[dict[Name, Point], dict[Name, Name]]:
    """The points that no other dominates, and for each other one a point of the front that dominates it.

    A point whose bound is dominated already is cut unseen, which is most of them where bounds are near.

    Args:
        least: names, each with a bound from below on its point; of equal points that with the lower bound stays, and of
            equal bounds the first.
        exact: the point itself; None if it does not count.
    """
    front: dict[Name, Point] = {}
    beaten: dict[Name, Name] = {}

    def beats(point: Point) -> Name | None:
        return next((name for name, better in front.items() if dominates(better, point)), None)

    for bound, name in sorted(least, key=lambda each: each[0]):
        by = beats(bound)
        if by is None:
            point = exact(name)
            if point is None:
                continue
            by = beats(point)
            if by is None:
                for worse in [other for other, there in front.items() if dominates(point, there)]:
                    beaten[worse] = name
                    del front[worse]
                front[name] = point
                continue
        beaten[name] = by
    return front, {name: _last(beaten, name) for name in beaten}


def _last(beaten: Mapping[Name, Name], name: Name) -> Name:
    """Whatever beat it at last: what beat it first may have been beaten itself."""
    while name in beaten:
        name = beaten[name]
    return name
