"""Pages that answer: a comparison, a stack that is built, the pairs at one glance. Scripts fill them."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.site.answers.card import pairs
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.estimates import REFERENCE
from lvlm_atlas.site.pairs_svg import pair_matrix
from lvlm_atlas.site.plots import Plots
from lvlm_atlas.site.routes import FIXED

LOADED_MB = 10
"""What a page loads before the first command, compressed as servers send it."""


def examples(content: Content) -> list[str]:
    """Commands to begin with, about a model and a device that there are."""
    atlas = content.atlas
    if REFERENCE.model not in atlas.models or REFERENCE.device not in atlas.hardware:
        return ["lvlm-atlas list"]
    subject = f"--model {REFERENCE.model} --hardware {REFERENCE.device} --image 1280x720 --images 8 --text 200"
    known = [each.id for each in content.techniques if each.reference]
    return [
        f"lvlm-atlas plan {subject} --goal ttft --risk reported",
        f"lvlm-atlas estimate {subject} --output 500" + (f" --stack {known[0]}" if known else ""),
        'lvlm-atlas query "stage:prefilling training:none"',
        f"lvlm-atlas results --model {REFERENCE.model}",
    ]


def tool_pages(content: Content) -> Iterator[Page]:
    """The pages; none in an atlas without techniques."""
    if not content.techniques:
        return
    yield Page(
        path=FIXED["ask"], title="Ask the program", template="ask.md.j2", hide=FULL_WIDTH,
        description="Any command of the program, run in the page: any sizes, settings, stacks and queries.",
        context={
            "python": content.python, "examples": examples(content), "megabytes": LOADED_MB,
            "path": "catalog/techniques/prefilling/token-compression/my-method.yaml",
        },
    )  # fmt: skip
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
