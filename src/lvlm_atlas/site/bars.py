"""Horizontal bars as inline SVG: times by stage, shares, and whatever else compares lengths on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from markupsafe import Markup

from lvlm_atlas.site.markup import clean
from lvlm_atlas.site.svg import drawing, label, tag

_WIDTH, _ROW, _BAR = 480.0, 22.0, 13.0
_LETTER, _SMALL = 7.7, 6.9
"""Widths of a letter of a name and of a text, generously."""


@dataclass(frozen=True)
class Part:
    """A stretch of a bar."""

    value: float
    class_: str = ""
    """CSS class that gives its colour, such as `la-s1` for the first stage."""
    title: str = ""
    """What it is, for a reader who points at it."""


@dataclass(frozen=True)
class Bar:
    """A row: its name, its parts from left to right, and what stands behind it."""

    name: str
    parts: tuple[Part, ...]
    text: str
    href: str = ""
    """Where its name leads."""
    below: bool = False
    """Whether it belongs to the row above: it stands closer to it, and its name is muted."""

    @property
    def value(self) -> float:
        """Its length."""
        return sum(part.value for part in self.parts)


def bars(rows: Sequence[Bar], *, id_: str, title: str, desc: str) -> Markup:
    """All bars on one scale, with names to the left and texts to the right of each."""
    left = 8 + _LETTER * max((len(row.name) for row in rows), default=0)
    right = 10 + _SMALL * max((len(row.text) for row in rows), default=0)
    longest = max((row.value for row in rows), default=0) or 1.0
    scale = (_WIDTH - left - right) / longest
    body, y = [], 4.0
    for number, row in enumerate(rows):
        if number and not row.below:
            y += 5
        body.append(_row(row, left, y, scale))
        y += _ROW - (5 if row.below or (number + 1 < len(rows) and rows[number + 1].below) else 0)
    links = any(row.href for row in rows)
    return drawing(body, _WIDTH, y + 2, id_=id_, title=title, desc=desc, links=links)


def _row(row: Bar, left: float, y: float, scale: float) -> str:
    baseline = y + _BAR - 2
    name = label(row.name, left - 8, baseline, "la-t la-small" if row.below else "la-t", "end")
    if row.href:
        name = tag("a", name, href=row.href)
    x, drawn = left, []
    for part in row.parts:
        width = max(part.value * scale, 1.0 if part.value else 0.0)  # what is there can be seen
        hint = tag("title", escape(clean(part.title))) if part.title else ""
        class_ = f"la-bar {part.class_}".rstrip()
        drawn.append(tag("rect", hint, x=round(x, 1), y=y, width=round(width, 1), height=_BAR, class_=class_))
        x += width
    return name + "".join(drawn) + label(row.text, round(x + 6, 1), baseline, "la-t la-small")
