"""Load curves as inline SVG: a latency over the rate of requests, a line for each stack."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from lvlm_atlas.roofline.units import number, seconds
from lvlm_atlas.site.loads import Curve
from lvlm_atlas.site.svg import drawing, label, tag

_WIDTH, _HEIGHT = 560.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 540.0, 16.0, 252.0
_DASHES = ("none", "7 4", "2 4", "9 3 2 3")
"""Lines are told apart by their dashes, in the order of the key below the drawing."""


def load_curves(curves: Sequence[Curve], *, id_: str, title: str, desc: str) -> Markup:
    """The curves on one pair of axes; the latency's is logarithmic."""
    rates = sorted({rate for curve in curves for rate, _ in curve.points})
    times = [time for curve in curves for _, time in curve.points if time > 0]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    high = max(high, low + 1)

    def place(rate: float, time: float) -> tuple[float, float]:
        across = rate / rates[-1]
        up = (math.log10(max(time, 10.0**low)) - low) / (high - low)
        return round(_LEFT + across * (_RIGHT - _LEFT), 1), round(_BOTTOM - up * (_BOTTOM - _TOP), 1)

    body = []
    for decade in range(low, high + 1):
        _, y = place(0, 10.0**decade)
        body.append(tag("path", d=f"M{_LEFT:g} {y:g}H{_RIGHT:g}", class_="la-grid"))
        body.append(label(seconds(10.0**decade), _LEFT - 7, y + 4, "la-t la-small", "end"))
    for rate in rates:
        x, _ = place(rate, 10.0**low)
        body.append(tag("path", d=f"M{x:g} {_TOP:g}V{_BOTTOM:g}", class_="la-grid"))
        body.append(label(number(rate), x, _BOTTOM + 16, "la-t la-small", "middle"))
    body.append(label("requests a second", (_LEFT + _RIGHT) / 2, _BOTTOM + 36, "la-t la-small", "middle"))
    for curve, dash in zip(curves, _DASHES, strict=False):
        line = "L".join("{:g} {:g}".format(*place(rate, time)) for rate, time in curve.points)
        body.append(tag("path", d=f"M{line}", class_="la-roof", stroke_dasharray=dash))
        body += [
            tag("circle", cx=x, cy=y, r=3.5, class_="la-tip")
            for x, y in (place(rate, time) for rate, time in curve.points)
        ]
    return drawing(body, _WIDTH, _HEIGHT, id_=id_, title=title, desc=desc, links=False)


def key(index: int) -> str:
    """What the line of a curve looks like, in words."""
    return ("solid", "dashed", "dotted", "dash-dotted")[index]
