"""The roofline as inline SVG: the two walls of a device, the ridge between them, and the stages of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.site.svg import drawing, label, tag

_WIDTH, _HEIGHT = 450.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 416.0, 26.0, 258.0
_EDGE = _WIDTH - 6
"""How far right a label may reach."""
_LETTER, _STRONG, _LINE = 6.8, 8.8, 15.0
"""Widths of a letter of a small and of a strong label and the height of a line, generously."""


@dataclass(frozen=True)
class Point:
    """Something that runs on the device."""

    name: str
    intensity: float
    """FLOP per byte."""
    flop_s: float
    """FLOP/s reached, a device."""
    class_: str = ""
    """CSS class that gives its colour."""


@dataclass(frozen=True)
class Roof:
    """The two walls of a device for one type of numbers."""

    flop_s: float
    byte_s: float
    dtype: str

    @property
    def ridge(self) -> float:
        """FLOP per byte at which the walls meet."""
        return self.flop_s / self.byte_s


@dataclass(frozen=True)
class _Axes:
    """Both axes are logarithmic; from and to are powers of ten."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, intensity: float, flop_s: float) -> tuple[float, float]:
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(flop_s) - self.y[0]) / (self.y[1] - self.y[0])
        return round(_LEFT + across * (_RIGHT - _LEFT), 1), round(_BOTTOM - up * (_BOTTOM - _TOP), 1)


Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


def roofline(
    roof: Roof, points: Sequence[Point], *, id_: str, title: str, desc: str, earlier: Sequence[Point] = ()
) -> Markup:
    """The roof with the points on or below it; points without work are left out.

    Those of `earlier` are hollow, and a line leads from each to the point of its name.
    """
    shown = [point for point in points if point.intensity > 0 and point.flop_s > 0]
    earlier = [point for point in earlier if point.intensity > 0 and point.flop_s > 0]
    axes = _axes(roof, [*shown, *earlier])
    ridge_x, ridge_y = axes.place(roof.ridge, roof.flop_s)
    start = max(10.0 ** axes.x[0], 10.0 ** axes.y[0] / roof.byte_s)
    start_x, start_y = axes.place(start, start * roof.byte_s)
    body = [
        *_grid(axes),
        tag("path", d=f"M{start_x:g} {start_y:g}L{ridge_x:g} {ridge_y:g}H{_RIGHT:g}", class_="la-roof"),
        tag("path", d=f"M{ridge_x:g} {ridge_y:g}V{_BOTTOM:g}", class_="la-ridge"),
    ]
    peak = f"compute: {units.rate(roof.flop_s)} ({roof.dtype})"
    body.append(label(peak, _RIGHT, ridge_y - 8, "la-t la-small", "end"))
    slope = f"memory: {units.bandwidth(roof.byte_s)}"
    middle_x, middle_y = (start_x + ridge_x) / 2, (start_y + ridge_y) / 2
    if middle_x - 10 - _LETTER * len(slope) > _LEFT:
        body.append(label(slope, round(middle_x - 10, 1), round(middle_y, 1), "la-t la-small", "end"))
    ridge = f"ridge {units.number(roof.ridge)} FLOP/byte"
    width = _LETTER * len(ridge)
    side, anchor = (-6, "end") if ridge_x - 6 - width > _LEFT else (6, "start")
    body.append(label(ridge, ridge_x + side, _BOTTOM - 7, "la-t la-small", anchor))
    taken = [_around(ridge_x + side, _BOTTOM - 7, width, anchor)]
    broken = (ridge_x - 2, ridge_y, ridge_x + 2, _BOTTOM)
    for point in shown:
        x, y = axes.place(point.intensity, point.flop_s)
        taken.append((x - 7, y - 7, x + 7, y + 7))
    for old, new in ((old, new) for old in earlier for new in shown if old.name == new.name):
        (from_x, from_y), (to_x, to_y) = axes.place(old.intensity, old.flop_s), axes.place(new.intensity, new.flop_s)
        body.append(tag("path", d=f"M{from_x:g} {from_y:g}L{to_x:g} {to_y:g}", class_=f"la-moved {old.class_}"))
        body.append(tag("circle", cx=from_x, cy=from_y, r=5, class_=f"la-hollow {old.class_}"))
    for point in sorted(shown, key=lambda each: -each.intensity):
        body.append(_point(point, axes, roof, taken, broken))
    return drawing(body, _WIDTH, _HEIGHT, id_=id_, title=title, desc=desc, links=False)


def _axes(roof: Roof, points: Sequence[Point]) -> _Axes:
    intensities = [roof.ridge, *(point.intensity for point in points)]
    rates = [roof.flop_s, *(point.flop_s for point in points)]
    low_x = math.floor(math.log10(min(intensities) / 2))
    high_x = math.ceil(math.log10(max(*intensities, 10 * roof.ridge)))  # a decade right of the ridge for the labels
    low_y = math.floor(math.log10(min(rates) / 2))
    return _Axes((low_x, high_x), (low_y, math.log10(roof.flop_s) + 0.4))  # with room for the label of the peak


def _grid(axes: _Axes) -> list[str]:
    drawn = []
    for decade in range(math.ceil(axes.x[0]), math.floor(axes.x[1]) + 1):
        x, _ = axes.place(10.0**decade, 10.0 ** axes.y[0])
        drawn.append(tag("path", d=f"M{x:g} {_TOP:g}V{_BOTTOM:g}", class_="la-grid"))
        drawn.append(label(units.number(10.0**decade), x, _BOTTOM + 16, "la-t la-small", "middle"))
    for decade in range(math.ceil(axes.y[0]), math.floor(axes.y[1]) + 1):
        _, y = axes.place(10.0 ** axes.x[0], 10.0**decade)
        drawn.append(tag("path", d=f"M{_LEFT:g} {y:g}H{_RIGHT:g}", class_="la-grid"))
        drawn.append(label(units.number(10.0**decade / 1e12), _LEFT - 7, y + 4, "la-t la-small", "end"))
    drawn.append(label("FLOP per byte", (_LEFT + _RIGHT) / 2, _BOTTOM + 36, "la-t la-small", "middle"))
    drawn.append(label("TFLOP/s", 4, _TOP - 14, "la-t la-small"))
    return drawn


def _point(point: Point, axes: _Axes, roof: Roof, taken: list[Box], broken: Box) -> str:
    """A point with its name, which crosses the broken line only where it has no place else."""
    x, y = axes.place(point.intensity, point.flop_s)
    places = (_free(point.name, x, y, axes, roof, each) for each in ((*taken, broken), taken))
    at_x, at_y, anchor = next(
        filter(None, places), (min(x + 11, _EDGE - _STRONG * len(point.name)), min(y + 4, _BOTTOM - 4), "start")
    )
    taken.append(_around(at_x, at_y, _STRONG * len(point.name), anchor))
    far = abs(at_y - 4 - y) > _LINE + 4
    leader = tag("path", d=f"M{x:g} {y:g}L{at_x:g} {at_y - 11:g}", class_="la-leader") if far else ""
    dot = tag("circle", cx=x, cy=y, r=5.5, class_="la-point")
    return tag("g", leader, dot, label(point.name, at_x, at_y, "la-t la-strong", anchor), class_=point.class_)


def _free(
    name: str, x: float, y: float, axes: _Axes, roof: Roof, taken: Sequence[Box]
) -> tuple[float, float, str] | None:
    """Where a label may stand: beside its point if that is free, else ever farther below; None: nowhere."""
    half = _STRONG * len(name) / 2
    middle = max(_LEFT + half, min(x, _EDGE - half))
    choices = [(x + 11, y + 4, "start"), (x - 11, y + 4, "end")]
    for lines in range(1, 15):
        down = y + 5 + _LINE * lines
        choices += [(middle, down, "middle"), (x + 9, down, "start"), (x - 9, down, "end")]
    for at_x, at_y, anchor in choices:
        box = _around(at_x, at_y, _STRONG * len(name), anchor)
        inside = box[0] >= _LEFT and box[2] <= _EDGE and box[1] >= _TOP and box[3] <= _BOTTOM
        if inside and _below(box, axes, roof) and not any(_meet(box, other) for other in taken):
            return at_x, at_y, anchor
    return None


def _around(x: float, y: float, width: float, anchor: str) -> Box:
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - 12, left + width, y + 4


def _below(box: Box, axes: _Axes, roof: Roof) -> bool:
    """Whether a box lies below the roof: its upper left corner does."""
    decades = axes.x[0] + (box[0] - _LEFT) / (_RIGHT - _LEFT) * (axes.x[1] - axes.x[0])
    _, y = axes.place(10**decades, max(min(10**decades * roof.byte_s, roof.flop_s), 10.0 ** axes.y[0]))
    return box[1] > y + 2


def _meet(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def stages(estimate: Estimate, classes: Mapping[str, str], *, id_: str, without: Estimate | None = None) -> Markup:
    """The stages of an estimate under the roof of one of its devices.

    Args:
        estimate: the estimate.
        classes: CSS classes of the stages.
        id_: of the drawing.
        without: the same request without techniques, from whose stages those of the estimate come.
    """
    points = _points(estimate, classes)
    roof = Roof(estimate.device.peak_flop_s[estimate.dtype], estimate.device.bandwidth_byte_s, estimate.dtype)
    said = "; ".join(
        f"{point.name} at {units.number(point.intensity)} FLOP per byte reaches {units.rate(point.flop_s)}"
        for point in points
        if point.flop_s
    )
    return roofline(
        roof, points, id_=id_, title=f"Roofline of {estimate.device.name} with {estimate.model.name}",
        desc=f"The walls meet at {units.number(roof.ridge)} FLOP per byte. {said}. The table has the same numbers.",
        earlier=_points(without, classes) if without else (),
    )  # fmt: skip


def _points(estimate: Estimate, classes: Mapping[str, str]) -> list[Point]:
    devices = estimate.deployment.devices
    return [
        Point(name.capitalize(), stage.intensity or 0.0, stage.flop_s / devices, classes[name])
        for name, stage in estimate.stages.items()
    ]
