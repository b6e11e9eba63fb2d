"""Curves over a number that grows, as inline SVG: both axes are logarithmic, and each curve has its name at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lvlm_atlas.site.svg import apart, drawing, label, tag

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 620.0, 64.0, 430.0, 16.0, 250.0
_LINE = 15.0


@dataclass(frozen=True)
class Curve:
    """What one thing does as the number grows."""

    name: str
    points: tuple[tuple[float, float], ...]
    class_: str
    """CSS class that gives its colour."""


@dataclass(frozen=True)
class Axis:
    """What an axis counts."""

    name: str
    shown: Callable[[float], str]
    """How a value is written."""
    marks: tuple[float, ...]
    """Values with a line."""


def lines(curves: Sequence[Curve], across: Axis, up: Axis, *, id_: str, title: str, desc: str) -> Markup:
    """The curves; values are above 0."""
    x = _scale([at for curve in curves for at, _ in curve.points], _LEFT, _RIGHT)
    y = _scale([*(value for curve in curves for _, value in curve.points), *up.marks], _BOTTOM, _TOP)
    body = []
    for mark in up.marks:
        body.append(tag("path", d=f"M{_LEFT:g} {y(mark):g}H{_RIGHT:g}", class_="la-grid"))
        body.append(label(up.shown(mark), _LEFT - 6, y(mark) + 4, "la-t la-small", "end"))
    for mark in across.marks:
        body.append(label(across.shown(mark), x(mark), _BOTTOM + 16, "la-t la-small", "middle"))
    body.append(tag("path", d=f"M{_LEFT:g} {_BOTTOM:g}H{_RIGHT:g}", class_="la-axis"))
    body.append(label(f"{across.name} (logarithmic)", (_LEFT + _RIGHT) / 2, _BOTTOM + 32, "la-t la-small", "middle"))
    body.append(label(up.name, _LEFT, _TOP - 4, "la-t la-small"))
    ordered = sorted(curves, key=lambda curve: y(curve.points[-1][1]))
    heights = apart([y(curve.points[-1][1]) for curve in ordered], _TOP, _BOTTOM, _LINE)
    for curve, height in zip(ordered, heights, strict=True):
        path = "L".join(f"{x(at):g} {y(value):g}" for at, value in curve.points)
        body.append(tag("path", d=f"M{path}", class_=f"la-kept {curve.class_}"))
        for at, value in curve.points:
            said = tag("title", f"{_plain(curve.name)}: {up.shown(value)} at {across.shown(at)}")
            body.append(tag("circle", said, cx=x(at), cy=y(value), r=2.6, class_=f"la-dot {curve.class_}"))
        end = y(curve.points[-1][1])
        body.append(
            tag("path", d=f"M{_RIGHT + 4:g} {end:g}L{_RIGHT + 12:g} {height:g}", class_=f"la-leader {curve.class_}")
        )
        body.append(label(curve.name, _RIGHT + 15, height + 4, f"la-t la-small {curve.class_}"))
    return drawing(body, _WIDTH, _BOTTOM + 40, id_=id_, title=title, desc=desc, links=False)


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = math.log(min(values)), math.log(max(values))

    def place(value: float) -> float:
        return round(start + (math.log(value) - low) / (high - low or 1) * (end - start), 1)

    return place


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
