"""A picture of a run: what each instance does when, and which requests wait for their first token meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from lvlm_atlas.roofline.units import seconds
from lvlm_atlas.serving.simulation import Run
from lvlm_atlas.serving.tally import Span

WIDTH, LEFT, LANE, REQUEST = 960, 150, 22, 5
REQUESTS = 60
"""Requests that the picture shows."""
STEPS = 1500
"""Steps that it shows at most."""
COLOURS = {"encoding": "#b35806", "prefilling": "#2166ac", "mixed": "#7b3294", "decoding": "#5aae61"}
"""What a step is for; told apart without colour too, by the lane and the key's order."""
WAIT, ANSWER = "#bdbdbd", "#5aae61"


def timeline(run: Run) -> str:
    """An SVG picture of the beginning of a run."""
    tally = run.tally
    spans = tally.spans[:STEPS]
    start, end = tally.first_s, max((each.end_s for each in spans), default=tally.last_s)
    if len(spans) == len(tally.spans):
        end = max(end, tally.last_s) if len(tally.spans) < STEPS else end
    shown = [each for each in sorted(tally.requests) if each[0] < end][:REQUESTS]
    names = list(dict.fromkeys(each.name for each in run.cluster.instances))
    top = 46
    lanes = top + LANE * len(names)
    height = lanes + 30 + REQUEST * len(shown) + 34
    scale = (WIDTH - LEFT - 14) / ((end - start) or 1.0)

    def x(at_s: float) -> float:
        return LEFT + (min(at_s, end) - start) * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(_title(run, end - start))}</title>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_key(),
    ]
    for index, name in enumerate(names):
        parts.append(f'<text x="{LEFT - 8}" y="{top + LANE * index + 15}" text-anchor="end">{escape(name)}</text>')
    for each in spans:
        y = top + LANE * names.index(each.instance) + 3
        parts.append(_bar(x(each.start_s), x(each.end_s), y, LANE - 6, COLOURS[_purpose(each)]))
    parts.append(f'<text x="{LEFT - 8}" y="{lanes + 26}" text-anchor="end">requests</text>')
    for index, (came, first, left) in enumerate(shown):
        y = lanes + 18 + REQUEST * index
        parts.append(_bar(x(came), x(first), y, REQUEST - 1, WAIT))
        if first < end:
            parts.append(_bar(x(first), x(left), y, REQUEST - 1, ANSWER))
    parts += _axis(start, end, height - 22, x)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(run: Run, length_s: float) -> str:
    policy = run.cluster.policy
    pools = ", ".join(f"{pool.instances} × {pool.name}" for pool in policy.pools)
    return f"{policy.id} ({pools}): the first {seconds(length_s)} of the run"


def _purpose(span: Span) -> str:
    if span.prompts:
        return "mixed" if span.decoding else "prefilling"
    return "encoding" if span.images else "decoding"


def _bar(left: float, right: float, y: float, height: float, colour: str) -> str:
    return f'<rect x="{left:.1f}" y="{y}" width="{max(0.3, right - left):.1f}" height="{height}" fill="{colour}"/>'


WORDS = {
    "encoding": "encodes",
    "prefilling": "reads prompts",
    "mixed": "reads prompts and decodes",
    "decoding": "decodes",
}
"""What the key calls each."""


def _key() -> Iterator[str]:
    at = 14
    for colour, label in (
        *((COLOURS[kind], word) for kind, word in WORDS.items()),
        (WAIT, "waits for the first token"),
    ):
        yield f'<rect x="{at}" y="12" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{at + 17}" y="22">{label}</text>'
        at += 34 + 7 * len(label)


def _axis(start: float, end: float, y: float, x: Callable[[float], float]) -> Iterator[str]:
    yield f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - 14}" y2="{y}" stroke="#555555"/>'
    for step in range(5):
        at = start + (end - start) * step / 4
        yield f'<text x="{x(at):.1f}" y="{y + 16}" text-anchor="middle">{seconds(at - start)}</text>'
