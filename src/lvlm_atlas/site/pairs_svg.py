"""Every pair of techniques at one glance, as inline SVG: what works, what breaks, and how much nobody knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from markupsafe import Markup

from lvlm_atlas.site.content import Content
from lvlm_atlas.site.svg import drawing, label, stage_number, tag

CELL = 5.0
"""Side of a pair."""
_LEFT, _TOP = 30.0, 24.0
_INSET = 0.2
"""Share of a cell that is left free around a pair that works, so that shape tells it from one that breaks."""


def pair_matrix(content: Content, pairs: Sequence[str], *, id_: str) -> Markup:
    """The matrix. `pairs` has a row for each technique and a letter for each other: `w`, `b` or `u`."""
    side = CELL * len(pairs)
    body = [
        tag("rect", x=_LEFT, y=_TOP, width=side, height=side, class_="la-box"),
        *_bands(content, side),
        tag("path", d="".join(_breaks(pairs)), class_="la-pair-breaks"),
        tag("path", d="".join(_works(pairs)), class_="la-pair-works"),
        tag("path", d=f"M{_LEFT:g} {_TOP:g}l{side:g} {side:g}", class_="la-axis"),
    ]
    counts = {letter: sum(row.count(letter) for row in pairs) // 2 for letter in "wbu"}
    return drawing(
        body, _LEFT + side + 4, _TOP + side + 4, id_=id_, title="Pairs of techniques: what works, what breaks",
        desc=f"{len(pairs)} techniques in pipeline order. {counts['w']:,} pairs work, {counts['b']:,} break, of "
        f"{counts['u']:,} nobody has said.", links=False,
    )  # fmt: skip


def _bands(content: Content, side: float) -> Iterator[str]:
    """The stages along both sides, and the lines between them."""
    place = 0.0
    for stage, members in groupby(content.techniques, key=lambda technique: technique.stage):
        length = CELL * len(list(members))
        middle, colour = place + length / 2, f"la-s{stage_number(content.atlas, stage)}"
        name = content.atlas.term("stage", stage).name or stage
        yield tag("rect", x=_LEFT + place, y=_TOP - 5, width=length, height=4, class_=f"la-bar {colour}")
        yield tag("rect", x=_LEFT - 5, y=_TOP + place, width=4, height=length, class_=f"la-bar {colour}")
        yield label(name, _LEFT + middle, _TOP - 10, "la-t la-small", "middle")
        yield tag("g", label(name, 0, 0, "la-t la-small", "middle"),
                  transform=f"translate({_LEFT - 12:g} {_TOP + middle:g}) rotate(-90)")  # fmt: skip
        place += length
        if place < side:
            cross = f"M{_LEFT + place:g} {_TOP:g}v{side:g}M{_LEFT:g} {_TOP + place:g}h{side:g}"
            yield tag("path", d=cross, class_="la-grid")


def _breaks(pairs: Sequence[str]) -> Iterator[str]:
    """Runs of pairs that break, as full rectangles."""
    for row, letters in enumerate(pairs):
        place = 0
        for letter, run in groupby(letters):
            length = len(list(run))
            if letter == "b":
                x, y = _LEFT + CELL * place, _TOP + CELL * row
                yield f"M{x:g} {y:g}h{CELL * length:g}v{CELL:g}h{-CELL * length:g}z"
            place += length


def _works(pairs: Sequence[str]) -> Iterator[str]:
    """Pairs that work, each as a smaller square."""
    inset, side = CELL * _INSET, CELL * (1 - 2 * _INSET)
    for row, letters in enumerate(pairs):
        for place, letter in enumerate(letters):
            if letter == "w":
                x, y = _LEFT + CELL * place + inset, _TOP + CELL * row + inset
                yield f"M{x:g} {y:g}h{side:g}v{side:g}h{-side:g}z"
