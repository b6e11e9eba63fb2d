"""The page that holds the catalog against published lists of techniques."""

from __future__ import annotations

from collections.abc import Iterator

from lvlm_atlas.graph.coverage import STATES, counts
from lvlm_atlas.site.content import FULL_WIDTH, Content, Page
from lvlm_atlas.site.routes import FIXED


def coverage_page(content: Content) -> Iterator[Page]:
    """The page, or none for a catalog without lists."""
    if not content.coverage:
        return
    yield Page(
        path=FIXED["coverage"], title="Coverage", template="coverage.md.j2", hide=FULL_WIDTH,
        description="Every technique that the survey and its authors' list name, and whether it runs here.",
        context={"lists": [(*pair, counts(pair[1])) for pair in content.coverage], "states": STATES},
    )  # fmt: skip
