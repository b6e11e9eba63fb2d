"""What runs counted, with a technique and without, as inline SVG: a small panel for each count, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lvlm_atlas.schema.measurement import SmokeResult
from lvlm_atlas.site.svg import drawing, label, tag

_WIDTH, _LEFT, _RIGHT, _HIGH, _ROW = 460.0, 60.0, 450.0, 70.0, 118.0
STYLE = """
.la-t { font: 11px sans-serif; fill: #566171; } .la-strong { font-weight: 600; fill: #1b2431; }
.la-axis { fill: none; stroke: #5b6878; } .la-kept { fill: none; stroke: #a8480a; stroke-width: 2; }
.la-ridge { fill: none; stroke: #5b6878; stroke-dasharray: 4 4; }
"""
"""For a file of its own; pages bring their style sheet."""


@dataclass(frozen=True)
class Panel:
    """One count, as a step line."""

    title: str
    across: str
    """What the steps are, such as `LLM layer`."""
    with_: Sequence[float]
    without: Sequence[float] = ()
    """The same without techniques; nothing if there is none."""


def panels_of(with_: object, without: object | None) -> list[Panel]:
    """Tokens and cache layer by layer, the cache over the answer, and what each verification accepted.

    Args:
        with_: the trace of a run, or the record of one.
        without: the same without techniques; None if there is none.
    """

    def panel(title: str, across: str, field: str) -> Panel:
        return Panel(title, across, getattr(with_, field), getattr(without, field) if without else ())

    return [
        panel("tokens that enter, a frame", "encoder layer", "encoder_tokens"),
        panel("tokens that enter", "LLM layer", "llm_tokens"),
        panel("cache entries a head, prompt read", "LLM layer", "kv_entries"),
        panel("cache entries of all layers while answering", "round", "kv_settled_entries"),
        panel("drafted tokens accepted", "round", "accepted_lengths"),
    ]


def counts(panels: Sequence[Panel], *, id_: str, title: str, style: bool = False) -> Markup:
    """The panels below each other: the technique's line whole, the plain run's dashed; those of zeros are left out.

    Args:
        panels: what was counted.
        id_: of the drawing in its page.
        title: of the drawing.
        style: whether it is a file of its own, and brings its style along.
    """
    shown = [panel for panel in panels if any(panel.with_) or any(panel.without)]
    body = [tag("style", STYLE)] if style else []
    for number, panel in enumerate(shown):
        body += _drawn(panel, 20 + _ROW * number)
    sums = "; ".join(f"{panel.title}: {sum(panel.with_):g} against {sum(panel.without):g}" for panel in shown)
    desc = f"Whole lines with the techniques, dashed ones without. In all: {sums}."
    return drawing(body, _WIDTH, 20 + _ROW * len(shown), id_=id_, title=title, desc=desc, links=False)


def counts_picture(result: SmokeResult, id_: str) -> Markup:
    """What a recorded run counted, beside the run without techniques."""
    with_, without = result.counts, result.baseline
    if with_ is None or without is None:
        return Markup()
    changed = [panel for panel in panels_of(with_, without) if panel.with_ != panel.without]
    return counts(changed, id_=id_, title=f"What the run of {result.technique} counted") if changed else Markup()


def _drawn(panel: Panel, top: float) -> list[str]:
    most = max((*panel.with_, *panel.without, 0)) or 1
    steps = max(len(panel.with_), len(panel.without))
    bottom = top + 14 + _HIGH
    body = [
        label(panel.title, _LEFT, top + 4, "la-t la-small la-strong"),
        tag("path", d=f"M{_LEFT:g} {bottom:g}H{_RIGHT:g}", class_="la-axis"),
        label(f"{most:,.6g}", _LEFT - 6, top + 20, "la-t la-small", "end"),
        label("0", _LEFT - 6, bottom + 4, "la-t la-small", "end"),
        label(f"{panel.across} 0 to {steps - 1}", (_LEFT + _RIGHT) / 2, bottom + 15, "la-t la-small", "middle"),
    ]
    for values, class_ in ((panel.without, "la-ridge"), (panel.with_, "la-kept la-k0")):
        if values:
            body.append(tag("path", d=_stair(values, steps, most, bottom), class_=class_))
    return body


def _stair(values: Sequence[float], steps: int, most: float, bottom: float) -> str:
    """A line that holds each value for a step."""
    wide = (_RIGHT - _LEFT) / steps
    path = []
    for at, value in enumerate(values):
        height = bottom - value / most * _HIGH
        path.append(f"{'L' if at else 'M'}{_LEFT + at * wide:.1f} {height:.1f}H{_LEFT + (at + 1) * wide:.1f}")
    return "".join(path)
