"""A score against the vision tokens kept, as inline SVG: what sources report of several techniques on one model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from markupsafe import Markup

from lvlm_atlas.graph.result_words import baseline_of, kept_of, value_of
from lvlm_atlas.graph.results import ReportedResult
from lvlm_atlas.site.markup import clean
from lvlm_atlas.site.svg import apart, drawing, label, tag

LEAST = 3
"""Techniques that make a comparison."""
_WIDTH, _LEFT, _RIGHT, _TOP, _LINE = 560.0, 46.0, 390.0, 24.0, 15.0
_HEIGHT = 190.0
"""Of the area where points lie; longer lists of names make a drawing higher."""

Series = list[tuple[float, ReportedResult]]


def kept_plot(rows: Sequence[ReportedResult], name: Callable[[str], str], *, id_: str) -> Markup | None:
    """Each technique's scores, joined where they are of one source; None where fewer than `LEAST` say what is kept.

    Args:
        rows: results of one benchmark and model.
        name: a technique's name by its id.
        id_: of the drawing in its page.
    """
    as_count = sum(row.tokens_kept is not None for row in rows) >= sum(row.share_kept is not None for row in rows)
    placed = [(number, row) for row in rows if (number := _kept(row, as_count=as_count))]
    if len({row.technique for _, row in placed}) < LEAST or len({number for number, _ in placed}) < 2:
        return None
    series: dict[tuple[str, str], Series] = defaultdict(list)
    for number, row in sorted(placed, key=lambda pair: pair[0]):
        series[row.technique, row.paper].append((number, row))
    bases = sorted({row.baseline for _, row in placed if row.baseline is not None})
    bottom = max(_TOP + _HEIGHT, _TOP + _LINE * len(series))
    x, y = _scales([number for number, _ in placed], [*(row.value for _, row in placed), *bases], bottom)
    body = [*_axes([number for number, _ in placed], x, as_count=as_count, bottom=bottom)]
    for value in _steps([*(row.value for _, row in placed), *bases]):
        body.append(tag("path", d=f"M{_LEFT:g} {y(value):g}H{_RIGHT:g}", class_="la-grid"))
        body.append(label(f"{value:g}", _LEFT - 6, y(value) + 4, "la-t la-small", "end"))
    body += [tag("path", d=f"M{_LEFT:g} {y(base):g}H{_RIGHT:g}", class_="la-ridge") for base in bases]
    ends = sorted(series, key=lambda key: -series[key][-1][1].value)
    heights = apart([y(series[key][-1][1].value) for key in ends], _TOP, bottom, _LINE)
    several = {technique for technique, _ in series if sum(technique == other for other, _ in series) > 1}
    for number, (key, height) in enumerate(zip(ends, heights, strict=True)):
        colour, points = f"la-k{number % 8}", series[key]
        path = "L".join(f"{x(kept):g} {y(row.value):g}" for kept, row in points)
        body.append(tag("path", d=f"M{path}", class_=f"la-kept {colour}"))
        for kept, row in points:
            without = f", {baseline_of(row)} unmodified" if row.baseline is not None else ""
            said = f"{name(row.technique)}: {value_of(row)} with {kept_of(row)}{without}; {row.paper}"
            dot = tag("title", _escaped(said))
            body.append(tag("circle", dot, cx=x(kept), cy=y(row.value), r=3.2, class_=f"la-dot {colour}"))
        end = points[-1]
        leader = f"M{x(end[0]) + 4:g} {y(end[1].value):g}L{_RIGHT + 8:g} {height:g}"
        body.append(tag("path", d=leader, class_=f"la-leader {colour}"))
        shown = name(key[0]) + (f" ({key[1]})" if key[0] in several else "")
        body.append(label(shown, _RIGHT + 11, height + 4, f"la-t la-small {colour}"))
    left_out = len(rows) - len(placed)
    first = rows[0]
    title = f"{first.measure} against vision tokens kept, {first.model}"
    desc = f"{len(series)} series of {len(placed)} numbers as sources report them; the table below holds them all."
    if left_out:
        desc += f" {left_out} of them do not say {'how many' if as_count else 'what share'}."
    return drawing(body, _WIDTH, bottom + 34, id_=id_, title=title, desc=desc, links=False)


def _kept(row: ReportedResult, *, as_count: bool) -> float | None:
    if as_count:
        return row.tokens_kept
    return None if row.share_kept is None else 100 * row.share_kept


def _scales(
    across: Sequence[float], up: Sequence[float], bottom: float
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Places of what is kept, on a logarithmic scale, and of values."""
    low, high = math.log(min(across)), math.log(max(across))
    least, most = min(up), max(up)
    room = (most - least or abs(most) or 1) * 0.06

    def x(number: float) -> float:
        return round(_LEFT + 10 + (math.log(number) - low) / (high - low) * (_RIGHT - _LEFT - 20), 1)

    def y(value: float) -> float:
        return round(bottom - (value - least + room) / (most - least + 2 * room) * (bottom - _TOP), 1)

    return x, y


def _axes(numbers: Sequence[float], x: Callable[[float], float], *, as_count: bool, bottom: float) -> list[str]:
    """The lower axis with the numbers that fit on it, and its name."""
    body = [tag("path", d=f"M{_LEFT:g} {bottom:g}H{_RIGHT:g}", class_="la-axis")]
    free = -math.inf
    for number in sorted(set(numbers)):
        text = f"{number:.3g}" + ("" if as_count else " %")
        if x(number) - 3.6 * len(text) > free:
            body.append(label(text, x(number), bottom + 15, "la-t la-small", "middle"))
            free = x(number) + 3.6 * len(text) + 6
    words = "vision tokens kept" if as_count else "share of the vision tokens kept"
    return [*body, label(f"{words} (logarithmic)", (_LEFT + _RIGHT) / 2, bottom + 30, "la-t la-small", "middle")]


def _steps(values: Sequence[float]) -> list[float]:
    """Round numbers in the range of some values, two to six of them."""
    least, most = min(values), max(values)
    span = most - least or abs(most) or 1
    step = 10 ** math.floor(math.log10(span))
    step = next(step * part for part in (1, 0.5, 0.2, 0.1) if span / (step * part) >= 2)
    first = math.ceil(least / step)
    return [round(number * step, 10) for number in range(first, math.floor(most / step) + 1)]


def _escaped(text: str) -> str:
    return escape(clean(text))
