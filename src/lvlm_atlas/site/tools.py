"""Pages that answer: a comparison, a stack that is built, the pairs at one glance. Scripts fill them."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.site.answers.card import pairs
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.pairs_svg import pair_matrix
from lvlm_atlas.site.plots import Plots
from lvlm_atlas.site.routes import FIXED


def tool_pages(content: Content) -> Iterator[Page]:
    """The pages; none in an atlas without techniques."""
    if not content.techniques:
        return
    yield Page(
        path=FIXED["compare"], title="Compare techniques", template="compare.md.j2", hide=FULL_WIDTH,
        description="Two to four techniques side by side: fields, effects, numbers, and how they get along.",
    )  # fmt: skip
    yield Page(
        path=FIXED["stack"], title="Build a stack", template="stack.md.j2", hide=FULL_WIDTH,
        description="Tick techniques: which conflict and why, what is unknown, what they gain together.",
    )  # fmt: skip
    yield Page(
        path=FIXED["pairs"], title="Pairs", template="pairs.md.j2", hide=FULL_WIDTH,
        description="Every pair of techniques at one glance: what works, what breaks, what nobody has said.",
        context={"matrix": pair_matrix(content, pairs(content), id_="la-pair-matrix")},
    )  # fmt: skip
    yield Page(
        path=FIXED["graph"], title="Graph", template="graph.md.j2", hide=FULL_WIDTH,
        description="Every technique at its place in the pipeline, and the edges between them, by kind and evidence.",
    )  # fmt: skip
    yield from Plots(content).page()
