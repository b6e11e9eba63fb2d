"""Drawings as inline SVG: the pipeline on the home page, and a technique's place in it.

Pure functions of the taxonomy. Colours are CSS classes, so that light and dark both work; what a drawing
says in colour it also says in words. A drawing without links is an image, one with links a group: inside
an image, assistive technology would not see them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

from markupsafe import Markup

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.schema.vocabulary import PositionTerm, StageTerm
from lvlm_atlas.site.markup import clean

_INDEXED = re.compile(r"\b([A-Z])_(in|[a-zL])(?![A-Za-z0-9_])")
Href = Callable[[str, str], str]
"""Address of a thing, by kind and id."""

_SHORT = 20
"""Letters of a name that fit into half the width of a phone's drawing."""
FLOW = {
    "encoding": ("vision tokens", "N_v of N_p patches"),
    "prefilling": ("KV cache", "N_v + N_t entries"),
    "decoding": ("answer", "N_o output tokens"),
}
"""What leaves each stage of a request."""


def tag(name: str, *children: str, **attributes: str | float) -> str:
    """An element; `class_` and `stroke_width` give `class` and `stroke-width`."""
    shown = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in attributes.items()}
    given = "".join(f" {key.rstrip('_').replace('_', '-')}={quoteattr(clean(value))}" for key, value in shown.items())
    return f"<{name}{given}>{''.join(children)}</{name}>" if children else f"<{name}{given}/>"


def label(content: str, x: float, y: float, class_: str = "la-t", anchor: str = "start") -> str:
    """A line of text; the indices of symbols such as `N_v` stand below it."""
    shown = _INDEXED.sub(r'\1<tspan baseline-shift="sub" font-size="75%">\2</tspan>', escape(clean(content)))
    anchored = {} if anchor == "start" else {"text_anchor": anchor}
    return tag("text", shown, x=x, y=y, class_=class_, **anchored)


def apart(heights: Sequence[float], top: float, bottom: float, line: float) -> list[float]:
    """Heights of labels, in order, moved as little as keeps them a line apart, below the top and above the bottom."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + line if placed else top))
    over = max(0.0, placed[-1] - bottom) if placed else 0.0
    if placed:
        placed[-1] -= over
    for at in range(len(placed) - 2, -1, -1):
        placed[at] = min(placed[at], placed[at + 1] - line)
    return placed


def drawing(
    body: Iterable[str], width: float, height: float, *, id_: str, title: str, desc: str, links: bool
) -> Markup:
    """The whole drawing, with the words that stand for it."""
    return Markup(  # noqa: S704  `tag` and `escape` escape
        tag(
            "svg",
            tag("title", escape(clean(title)), id=f"{id_}-title"),
            tag("desc", escape(clean(desc)), id=f"{id_}-desc"),
            *body,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width:g} {height:g}",
            role="group" if links else "img",
            aria_labelledby=f"{id_}-title",
            aria_describedby=f"{id_}-desc",
            class_="la-svg",
            width=width,
        )
    )


def stage_number(atlas: Atlas, stage: str) -> int:
    """Which of the stage colours a stage has, from 1."""
    ids = [term.id for term in atlas.terms("stage")]
    return 1 + ids.index(stage) % 4 if stage in ids else 4


def pipeline(atlas: Atlas, href: Href, *, tall: bool) -> Markup:
    """The pipeline: what each stage does and is limited by, what flows between, and where techniques act."""
    stages = [term for term in atlas.terms("stage") if isinstance(term, StageTerm)]
    request = [stage for stage in stages if stage.bound]
    around = [stage for stage in stages if not stage.bound]
    width, box = (400.0, 360.0) if tall else (1240.0, 236.0)
    x, y, body = (20.0, 66.0) if tall else (130.0, 4.0), 0.0, []
    left, top = x
    depth = max((len(_positions(atlas, stage.id)) for stage in request), default=0)
    body += [label("image or video", 20 if tall else 4, 22 if tall else 38, "la-t la-strong"),
             label("F × H × W pixels", 20 if tall else 4, 40 if tall else 56, "la-t la-small")]  # fmt: skip
    body.append(_arrow(200, 46, 200, 62) if tall else _arrow(4, 72, 124, 72))
    for stage in request:
        places = _positions(atlas, stage.id)
        # On a phone two names stand side by side where they are short enough.
        columns = 2 if tall and all(len(place.name or place.id) <= _SHORT for place in places) else 1
        height = 104 + 22 * (-(-len(places) // columns) if tall else depth)
        body.append(_stage(atlas, stage, href, left, top, box, height, columns=columns))
        what, much = FLOW.get(stage.id, ("", ""))
        if tall:
            body.append(_arrow(200, top + height + 4, 200, top + height + 40))
            body += [label(what, 212, top + height + 20, "la-t la-strong"), label(much, 212, top + height + 36)]
            top += height + 46
        else:
            gap = left + box
            body.append(label(what, gap + 67, 38, "la-t la-strong", "middle"))
            body.append(label(much, gap + 67, 56, "la-t la-small", "middle"))
            body.append(_arrow(gap + 6, 72, gap + 128, 72))
            left, y = left + box + 134, max(y, top + height)
    for stage in around:
        at = top if tall else y + 14
        body.append(_span(stage, atlas, href, 20 if tall else 130, at, box if tall else left - 134 - 130))
        top, y = at + 60, at + 60
    return drawing(
        body, width, (top if tall else y) + 6, id_=f"la-pipeline-{'tall' if tall else 'wide'}",
        title="The pipeline of a large vision-language model",
        desc=". ".join(f"{stage.name}: {stage.definition}" for stage in stages), links=True,
    )  # fmt: skip


def _stage(
    atlas: Atlas, stage: StageTerm, href: Href, x: float, y: float, width: float, height: float, *, columns: int
) -> str:
    bound = atlas.term("bound", stage.bound or "").name or ""
    metric = (atlas.term("metric", stage.metric).name if stage.metric else None) or ""
    head = [
        tag("rect", x=x, y=y, width=width, height=height, rx=10, class_="la-box"),
        tag("rect", x=x, y=y, width=5, height=height, rx=2.5, class_="la-edge-bar"),
        tag("a", label(stage.name or stage.id, x + 18, y + 28, "la-t la-name"), href=href("stage", stage.id)),
        label(f"limited by {bound[:1].lower()}{bound[1:]}", x + 18, y + 48, "la-t la-bound"),
        label(stage.complexity or "", x + 18, y + 67, "la-t la-mono"),
        label(f"decides: {metric[:1].lower()}{metric[1:]}", x + 18, y + 85, "la-t la-small"),
    ]
    dots = []
    for at, position in enumerate(_positions(atlas, stage.id)):
        px, py = x + 24 + (at % columns) * (width / columns - 6), y + 110 + 22 * (at // columns)
        dots.append(
            tag("a", tag("circle", cx=px, cy=py - 4, r=4.5, class_="la-dot"),
                label(position.name or position.id, px + 13, py), href=href("position", position.id))
        )  # fmt: skip
    return tag("g", *head, *dots, class_=f"la-s{stage_number(atlas, stage.id)}")


def _span(stage: StageTerm, atlas: Atlas, href: Href, x: float, y: float, width: float) -> str:
    return tag(
        "g",
        tag("rect", x=x, y=y, width=width, height=44, rx=10, class_="la-box"),
        tag("rect", x=x, y=y, width=5, height=44, rx=2.5, class_="la-edge-bar"),
        tag("a", label(stage.name or stage.id, x + 18, y + 28, "la-t la-name"), href=href("stage", stage.id)),
        label("places the stages of many requests", x + 110, y + 27, "la-t la-small"),
        class_=f"la-s{stage_number(atlas, stage.id)}",
    )


def strip(atlas: Atlas, acts_at: Collection[str], name: str) -> Markup:
    """The places of the pipeline in order, those where a technique acts marked and named."""
    x, parts, marks, named = 0.0, [], [], []
    for stage in atlas.terms("stage"):
        places = _positions(atlas, stage.id)
        width = max(56.0, 24.0 * len(places))
        parts.append(tag("rect", x=x, y=18, width=width - 6, height=22, rx=11, class_="la-track"))
        parts.append(label(stage.name or stage.id, x + (width - 6) / 2, 11, "la-t la-small", "middle"))
        for at, place in enumerate(places):
            cx, acts = round(x + (width - 6) * (at + 0.5) / len(places), 1), place.id in acts_at
            marks.append(tag("circle", cx=cx, cy=29, r=7 if acts else 3, class_="la-on" if acts else "la-off"))
            if acts:
                named.append((cx, place.name or place.id))
        parts[-2:] = [tag("g", *parts[-2:], *marks, class_=f"la-s{stage_number(atlas, stage.id)}")]
        marks, x = [], x + width
    for row, (cx, place_name) in enumerate(named):
        y, right = 60 + 17 * row, cx > x / 2
        parts.append(tag("path", d=f"M{cx:g} 37V{y - 4:g}", class_="la-leader"))
        parts.append(label(place_name, cx - 6 if right else cx + 6, y, "la-t la-strong", "end" if right else "start"))
    words = " and ".join(word for _, word in named) or "no place of the pipeline"
    return drawing(parts, x, 50 + 17 * len(named), id_="la-strip", title=f"Where {name} acts",
                   desc=f"{name} acts at: {words}.", links=False)  # fmt: skip


def _positions(atlas: Atlas, stage: str) -> list[PositionTerm]:
    """The places in a stage, in pipeline order."""
    positions = [t for t in atlas.terms("position") if isinstance(t, PositionTerm) and t.stage == stage]
    return sorted(positions, key=lambda term: term.order or 0)


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight arrow, rightwards or downwards."""
    down = x1 == x2
    tip = f"M{x2:g} {y2:g}l-5 -8h10z" if down else f"M{x2:g} {y2:g}l-8 -5v10z"
    shaft = tag("path", d=f"M{x1:g} {y1:g}L{x2 - (0 if down else 8):g} {y2 - (8 if down else 0):g}", class_="la-flow")
    return shaft + tag("path", d=tip, class_="la-tip")
