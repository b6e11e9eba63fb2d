"""Answers kept against what a run costs, as inline SVG: measured on the lab's trained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from markupsafe import Markup

from lvlm_atlas.roofline.units import share
from lvlm_atlas.site.markup import clean
from lvlm_atlas.site.svg import apart, drawing, label, tag
from lvlm_atlas.specs.answers import Kept

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _LINE = 620.0, 52.0, 420.0, 22.0, 250.0, 15.0
_MARKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = 1.05


@dataclass(frozen=True)
class Line:
    """The settings of one technique, or of one task."""

    name: str
    points: tuple[Kept, ...]
    class_: str
    """CSS classes that give its colour and stroke."""
    bars: bool = True
    """Whether intervals are drawn; their numbers are told either way."""


def curve_plot(lines: Sequence[Line], cost: str, words: str, *, id_: str, title: str, desc: str) -> Markup:
    """Lines over the share of a cost that is left, from nothing on the left to all on the right.

    Args:
        lines: the lines.
        cost: the cost that the lower axis counts.
        words: what that is, as readers say it.
        id_: of the drawing in its page.
        title: its title.
        desc: what it shows, for those who do not see it.
    """
    body = []
    for mark in _MARKS:
        body.append(tag("path", d=f"M{_LEFT:g} {_y(mark):g}H{_RIGHT:g}", class_="la-grid"))
        body.append(label(f"{mark:.0%}", _LEFT - 6, _y(mark) + 4, "la-t la-small", "end"))
        body.append(label(f"{mark:.0%}", _x(mark), _BOTTOM + 16, "la-t la-small", "middle"))
    body.append(tag("path", d=f"M{_LEFT:g} {_BOTTOM:g}H{_RIGHT:g}", class_="la-axis"))
    body.append(label(words, (_LEFT + _RIGHT) / 2, _BOTTOM + 32, "la-t la-small", "middle"))
    body.append(label("of the answers kept", _LEFT, _TOP - 9, "la-t la-small"))
    ordered = sorted(lines, key=lambda line: _y(line.points[0].share))
    heights = apart([_y(line.points[0].share) for line in ordered], _TOP, _BOTTOM, _LINE)
    for line, height in zip(ordered, heights, strict=True):
        at = [(_x(kept.cost[cost]), _y(kept.share), kept) for kept in line.points]
        body.append(tag("path", d="M" + "L".join(f"{x:g} {y:g}" for x, y, _ in at), class_=f"la-kept {line.class_}"))
        for x, y, kept in at:
            if line.bars:
                top, bottom = (_y(bound) for bound in kept.interval)
                body.append(tag("path", d=f"M{x:g} {top:g}V{bottom:g}", class_=f"la-interval {line.class_}"))
            setting = ", ".join(f"{name} {value}" for name, value in kept.setting.items()) or "defaults"
            low, high = map(share, kept.interval)
            said = (
                f"{line.name}, {setting}: {share(kept.share)} ({low} to {high}) of the answers at "
                f"{share(kept.cost[cost])} of the cost"
            )
            body.append(
                tag("circle", tag("title", escape(clean(said))), cx=x, cy=y, r=3, class_=f"la-dot {line.class_}")
            )
        x, y, _ = at[0]
        body.append(tag("path", d=f"M{x + 4:g} {y:g}L{_RIGHT + 12:g} {height:g}", class_=f"la-leader {line.class_}"))
        body.append(label(line.name, _RIGHT + 15, height + 4, f"la-t la-small {line.class_}"))
    return drawing(body, _WIDTH, _BOTTOM + 40, id_=id_, title=title, desc=desc, links=False)


def _x(cost: float) -> float:
    return round(_LEFT + 8 + min(cost, _MOST) / _MOST * (_RIGHT - _LEFT - 8), 1)


def _y(kept: float) -> float:
    return round(_BOTTOM - min(kept, _MOST) / _MOST * (_BOTTOM - _TOP), 1)
