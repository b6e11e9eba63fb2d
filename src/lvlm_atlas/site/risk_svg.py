"""Gain against risk, as inline SVG: each technique alone on the request of reference, in a band of its risk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lvlm_atlas.planner.risk import RISKS
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.svg import Href, drawing, label, stage_number, tag

_WIDTH, _LEFT, _RIGHT, _TOP, _BAND = 700.0, 74.0, 470.0, 10.0, 92.0
_LANES = 5
"""Heights within a band over which points are spread, so that equal gains stay visible."""
NAMED = 4
"""Techniques of a band that are named beside it, those with most gain."""


@dataclass(frozen=True)
class Placed:
    """A technique with what it gains."""

    id: str
    gain: float
    risk: int
    """Place on the scale of `RISKS`."""


def risk_plot(content: Content, placed: Sequence[Placed], href: Href, *, id_: str) -> Markup:
    """The plot; gains are above 0, and those below 1 lose."""
    low, high = min(1.0, *(each.gain for each in placed)), max(each.gain for each in placed) * 1.05
    risks = sorted({each.risk for each in placed})
    bottom = _TOP + _BAND * len(risks)

    def x(gain: float) -> float:
        return round(_LEFT + (math.log(gain / low)) / math.log(high / low) * (_RIGHT - _LEFT), 1)

    body = [tag("path", d=f"M{x(1):g} {_TOP:g}V{bottom:g}", class_="la-ridge")]
    for mark in (each for each in (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0) if low <= each <= high):
        body.append(label(f"{mark:g} ×", x(mark), bottom + 16, "la-t la-small", "middle"))
    body.append(label("gain of the whole request (logarithmic)", (_LEFT + _RIGHT) / 2, bottom + 32, "la-t la-small",
                      "middle"))  # fmt: skip
    for row, risk in enumerate(risks):
        top = _TOP + _BAND * row
        members = sorted((each for each in placed if each.risk == risk), key=lambda each: (-each.gain, each.id))
        body.append(tag("path", d=f"M{_LEFT:g} {top + _BAND:g}H{_RIGHT:g}", class_="la-axis"))
        body.append(label(RISKS[risk], _LEFT - 8, top + _BAND / 2 + 4, "la-t la-strong", "end"))
        body += _band(content, members, top, x, href)
    return drawing(
        body, _WIDTH, bottom + 40, id_=id_, title="Gain against risk",
        desc=f"{len(placed)} techniques alone at their default settings; the table has the numbers.", links=True,
    )  # fmt: skip


def _band(content: Content, members: Sequence[Placed], top: float, x: object, href: Href) -> Iterator[str]:
    assert callable(x)  # noqa: S101
    for at, each in enumerate(members):
        technique = content.atlas.techniques[each.id]
        y = top + 14 + (at % _LANES) * (_BAND - 24) / (_LANES - 1)
        shown = f"{technique.name}: {each.gain:.2f} ×"
        named = label(shown, _RIGHT + 16, top + 20 + 19 * at, "la-t la-small") if at < NAMED else ""
        dot = tag("circle", cx=x(each.gain), cy=y, r=4, class_="la-point")
        yield tag("a", tag("title", _escaped(shown)), dot, named, href=href("technique", each.id),
                  class_=f"la-s{stage_number(content.atlas, technique.stage)}")  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
