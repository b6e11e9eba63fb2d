"""References to the works behind techniques, as other tools read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lvlm_atlas.atlas.citation import csl, ris
from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase

STYLES = ("bibtex", "latex", "csl", "ris")
"""How references can be written: entries of BibTeX, a citing command of LaTeX, CSL JSON for Zotero and Pandoc, RIS."""


def references(atlas: KnowledgeBase, words: Sequence[str], style: str) -> str:
    """References to the works that techniques are from, each once, in the order of papers.bib.

    Args:
        atlas: the knowledge base.
        words: ids of techniques, keys of papers.bib, or queries; none means all techniques.
        style: one of `STYLES`.

    Raises:
        AtlasError: a word is none of these, or a query finds nothing.
    """
    cited = set(_keys(atlas, words))
    papers = [paper for key, paper in atlas.atlas.papers.items() if key in cited]
    if style == "latex":
        return f"\\cite{{{','.join(paper.key for paper in papers)}}}"
    if style == "csl":
        return as_json([csl(paper) for paper in papers])
    if style == "ris":
        return "\n\n".join(ris(paper) for paper in papers)
    return "\n\n".join(paper.bibtex.strip() for paper in papers)


def _keys(atlas: KnowledgeBase, words: Sequence[str]) -> Iterator[str]:
    techniques = [] if words else list(atlas.atlas.techniques.values())
    for word in words:
        if word in atlas.atlas.papers:
            yield word
            continue
        try:
            techniques.append(atlas.technique(word))
        except AtlasError:
            if word.isidentifier() or ("-" in word and ":" not in word and " " not in word):
                raise  # it looks like an id, so that the nearest id helps more than a fault of a query
            answer = atlas.query(word)
            if not answer.rows:
                raise AtlasError(f"{word!r}: {answer.why_empty}") from None
            techniques += [row.technique for row in answer.rows]
    for technique in techniques:
        yield from (technique.paper, *technique.also)
