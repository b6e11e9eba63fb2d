"""Least squares of a few positive numbers, in logarithms and within limits: a coarse search, then damped steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Values = dict[str, float]
"""Numbers by name."""
Errors = Callable[[Values], Sequence[float]]
"""The errors that numbers leave, in a fixed order; the sum of their squares is to be small."""
WIDTHS = (0.8, 0.4, 0.2)
"""Steps of the coarse search, in logarithms."""
NUDGE = 0.01
"""Step by which slopes are seen."""
ROUNDS = 25
"""Most rounds of damped steps."""
ENOUGH = 1e-5
"""Share of the sum that a round must spare to be followed by another."""


def minimised(errors: Errors, start: Values, limits: Mapping[str, tuple[float, float]]) -> Values:
    """The numbers within limits that leave the least sum of squares, as far as steps from `start` find them.

    Steps of single numbers come first, since kinks (the longer of two times counts) trap finer methods far away; then
    those of Levenberg and Marquardt.
    """
    values, least = start, _sum(errors(start))
    for width in WIDTHS:
        values, least = _stepped(errors, values, least, limits, width)
    damping = 1e-2
    for _ in range(ROUNDS):
        now, before = errors(values), least
        slopes = [_slope(errors, values, now, name, limits) for name in values]
        while damping < 1e4:
            moved = _moved(values, slopes, now, damping, limits)
            new = _sum(errors(moved))
            if new < least:
                values, least, damping = moved, new, damping / 5
                break
            damping *= 5
        if least > before * (1 - ENOUGH):
            break
    return values


def _stepped(
    errors: Errors, values: Values, least: float, limits: Mapping[str, tuple[float, float]], width: float
) -> tuple[Values, float]:
    """What single steps of one width lead to, as long as they help."""
    better = True
    while better:
        better = False
        for name in values:
            for step in (width, -width):
                moved = {**values, name: _within(values[name] * math.exp(step), limits[name])}
                if moved[name] != values[name] and (new := _sum(errors(moved))) < least * (1 - 1e-3):
                    values, least, better = moved, new, True
                    break
    return values, least


def _slope(
    errors: Errors, values: Values, now: Sequence[float], name: str, limits: Mapping[str, tuple[float, float]]
) -> list[float]:
    """How errors change with the logarithm of a number, seen inwards from a limit."""
    step = NUDGE if values[name] * math.exp(NUDGE) <= limits[name][1] else -NUDGE
    moved = errors({**values, name: values[name] * math.exp(step)})
    return [(after - before) / step for before, after in zip(now, moved, strict=True)]


def _moved(
    values: Values, slopes: Sequence[Sequence[float]], now: Sequence[float], damping: float,
    limits: Mapping[str, tuple[float, float]],
) -> Values:  # fmt: skip
    """The numbers after a damped step, each within its limits."""
    products = [[_dot(one, two) for two in slopes] for one in slopes]
    for place, row in enumerate(products):
        row[place] += damping * (row[place] + 1e-9)
    steps = _solved(products, [-_dot(slope, now) for slope in slopes])
    return {
        name: _within(values[name] * math.exp(max(-1.0, min(1.0, step))), limits[name])
        for name, step in zip(values, steps, strict=True)
    }


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a few linear equations, by elimination."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for place in range(size):
        pivot = max(range(place, size), key=lambda row: abs(rows[row][place]))
        rows[place], rows[pivot] = rows[pivot], rows[place]
        for row in range(size):
            if row != place and rows[row][place]:
                share = rows[row][place] / rows[place][place]
                rows[row] = [own - share * other for own, other in zip(rows[row], rows[place], strict=True)]
    return [rows[place][size] / rows[place][place] for place in range(size)]


def _dot(one: Sequence[float], two: Sequence[float]) -> float:
    return sum(left * right for left, right in zip(one, two, strict=True))


def _sum(errors: Sequence[float]) -> float:
    return _dot(errors, errors)


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(limits[1], max(limits[0], value))
