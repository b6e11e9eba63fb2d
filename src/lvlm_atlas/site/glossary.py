"""The glossary: every term of every vocabulary, by the letter that its name begins with."""

from __future__ import annotations

from lvlm_atlas.schema.vocabulary import Term
from lvlm_atlas.site.content import Content, Page
from lvlm_atlas.site.routes import FIXED

_OTHER = "0–9"


def glossary_page(content: Content) -> Page:
    """The page."""
    return Page(
        path=FIXED["glossary"], title="Glossary", template="glossary.md.j2",
        description="Every word that entries use, with its definition.",
        context={"by_letter": by_letter(content)},
    )  # fmt: skip


def by_letter(content: Content) -> dict[str, list[tuple[str, Term]]]:
    """Each letter with the terms whose names begin with it, each with its vocabulary; digits and signs come last."""
    terms = [(kind, term) for kind in content.atlas.vocabularies for term in content.atlas.terms(kind)]
    letters: dict[str, list[tuple[str, Term]]] = {}
    for kind, term in sorted(terms, key=lambda pair: ((pair[1].name or "").casefold(), pair[0], pair[1].id)):
        first = next((ch for ch in (term.name or "") if ch.isalnum()), "")
        letters.setdefault(first.upper() if first.isalpha() else _OTHER, []).append((kind, term))
    return dict(sorted(letters.items(), key=lambda pair: (pair[0] == _OTHER, pair[0])))
