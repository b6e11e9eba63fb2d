"""The drawing of a technique among those it interacts with: earlier ones left, later ones right."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from xml.sax.saxutils import escape

from markupsafe import Markup

from lvlm_atlas.graph.edges import COMPUTED, Edge
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.relations import reading
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.site.markup import clean
from lvlm_atlas.site.svg import Href, drawing, label, stage_number, tag

MOST = 5
"""Techniques drawn in a column; the table beside the drawing has them all."""
_WEIGHT = ("conflicts-with", "requires", "diminishes", "composes-with", "supersedes", "builds-on")
_W, _H, _ROW, _GAP = 188.0, 42.0, 54.0, 86.0


@dataclass(frozen=True)
class _Neighbour:
    technique: Technique
    edges: tuple[Edge, ...]
    """From the weightiest on."""
    column: int
    """-1 earlier in the pipeline, 0 at the same place, 1 later."""


def neighbours(kb: KnowledgeBase, technique: Technique, href: Href) -> Markup:
    """The techniques one interaction away, as nodes that are links; empty if there are none."""
    columns, left_out = _columns(kb, technique)
    if not any(columns.values()):
        return Markup()
    used = [column for column in (-1, 0, 1) if columns[column] or column == 0]
    x_of = {column: 2 + at * (_W + _GAP) for at, column in enumerate(used)}
    rows = max(len(columns[-1]), len(columns[1]), len(columns[0]) + 1)
    height, top = rows * _ROW + 26, 24.0
    middle = len(columns[0]) // 2  # the technique itself stands between those of its own place
    own = top + ((rows - len(columns[0]) - 1) / 2 + middle) * _ROW
    back, front = [], []
    heads = {-1: "earlier in the pipeline", 0: "same place" if columns[0] else "", 1: "later in the pipeline"}
    for column in used:
        back.append(label(heads[column], x_of[column] + _W / 2, 12, "la-t la-small", "middle"))
        count = len(columns[column]) + (column == 0)
        for at, neighbour in enumerate(columns[column]):
            slot = at + (column == 0 and at >= middle)
            y = top + ((rows - count) / 2 + slot) * _ROW
            back.append(_edge(neighbour, technique.id, x_of[0], own, x_of[column], y))
            front.append(_node(kb, neighbour, technique.id, x_of[column], y, href))
    number = stage_number(kb.atlas, technique.stage)
    front.append(
        tag("g", tag("rect", x=x_of[0], y=own, width=_W, height=_H, rx=8, class_="la-node la-self"),
            label(_short(technique.name, 20), x_of[0] + _W / 2, own + 26, "la-t la-self-name", "middle"),
            class_=f"la-s{number}")
    )  # fmt: skip
    if left_out:
        back.append(label(f"and {left_out} more in the table", x_of[0] + _W / 2, height - 2, "la-t la-small", "middle"))
        height += 6
    return drawing(
        [*back, *front], len(used) * _W + (len(used) - 1) * _GAP + 4, height, id_="la-neighbours",
        title=f"{technique.name} among the techniques it interacts with",
        desc="The table below the drawing has the same links, with the reasons.", links=True,
    )  # fmt: skip


def _columns(kb: KnowledgeBase, technique: Technique) -> tuple[dict[int, list[_Neighbour]], int]:
    joined: dict[str, list[Edge]] = defaultdict(list)
    for edge in kb.interactions(technique.id):
        if edge.evidence not in COMPUTED:  # a number that somebody computed of every pair would hide what is known
            joined[edge.other(technique.id)].append(edge)
    here = kb.atlas.place(technique)
    columns: dict[int, list[_Neighbour]] = {-1: [], 0: [], 1: []}
    for id_, edges in joined.items():
        other = kb.technique(id_)
        there = kb.atlas.place(other)
        column = (there > here) - (there < here)
        columns[column].append(_Neighbour(other, tuple(sorted(edges, key=_weight)), column))
    left_out = 0
    for column, techniques in columns.items():
        techniques.sort(key=lambda n: (_weight(n.edges[0]), n.technique.id))
        left_out += max(0, len(techniques) - MOST)
        columns[column] = sorted(techniques[:MOST], key=lambda n: (kb.atlas.place(n.technique), n.technique.id))
    return columns, left_out


def _weight(edge: Edge) -> tuple[int, bool]:
    return (_WEIGHT.index(edge.kind) if edge.kind in _WEIGHT else len(_WEIGHT), edge.evidence == "derived")


def _edge(neighbour: _Neighbour, centre: str, x0: float, y0: float, x1: float, y1: float) -> str:
    """The curve to a neighbour, an arrow where the weightiest interaction points somewhere."""
    edge, sides = neighbour.edges[0], neighbour.column
    here, there, from_, to = y0 + _H / 2, y1 + _H / 2, x0 + _W, x1
    if sides < 0:
        from_, to = x0, x1 + _W
    bend = _GAP / 2 * (1 if sides >= 0 else -1)
    if sides == 0:
        to = from_
        curve = f"M{from_:g} {here:g}C{from_ + _GAP * 0.7:g} {here:g} {to + _GAP * 0.7:g} {there:g} {to:g} {there:g}"
    else:
        curve = f"M{from_:g} {here:g}C{from_ + bend:g} {here:g} {to - bend:g} {there:g} {to:g} {there:g}"
    parts = [tag("path", d=curve, class_="la-line-shape" + (" la-derived" if edge.evidence == "derived" else ""))]
    if not edge.symmetric:
        outward = edge.start == centre
        x, y = (to, there) if outward else (from_, here)
        inwards = (8 if sides < 0 else -8) if outward else (-8 if sides < 0 else 8)
        inwards = 8 if sides == 0 else inwards
        parts.append(tag("path", d=f"M{x:g} {y:g}l{inwards:g} -4.5v9z", class_="la-arrow"))
    return tag("g", *parts, class_=f"la-kind la-{edge.kind}")


def _node(kb: KnowledgeBase, neighbour: _Neighbour, centre: str, x: float, y: float, href: Href) -> str:
    """A neighbour as a link, with how the technique in the middle stands to it."""
    technique = neighbour.technique
    reads = list(dict.fromkeys(reading(kb.atlas, edge, centre) for edge in neighbour.edges))
    middle = kb.technique(centre).name
    shown = ", ".join(reads) if len(", ".join(reads)) <= 24 else f"{reads[0]} (+{len(reads) - 1})"
    return tag(
        "a",
        tag("title", escape(clean(f"{middle} {' and '.join(reads)} {technique.name}"))),
        tag("rect", x=x, y=y, width=_W, height=_H, rx=8, class_="la-node"),
        tag("rect", x=x, y=y, width=4, height=_H, rx=2, class_="la-edge-bar"),
        label(_short(technique.name, 20), x + 14, y + 18, "la-t la-strong"),
        label(_short(shown, 25), x + 14, y + 33, "la-t la-small"),
        href=href("technique", technique.id),
        class_=f"la-s{stage_number(kb.atlas, technique.stage)}",
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip(" ,") + "…"
