"""Words that name a term of a vocabulary."""

from __future__ import annotations

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.shelves import folded
from lvlm_atlas.fault import AtlasError, suggestion


class UnknownValueError(AtlasError):
    """A value that a field cannot have; the message carries the nearest."""


def term_named(atlas: Atlas, vocabulary: str, word: str, field: str) -> str:
    """The id of a term from its id, name or alias; case, spaces, `-` and `_` do not matter.

    Raises:
        UnknownValueError: there is none; the message suggests the nearest.
    """
    terms = atlas.terms(vocabulary)
    gone = {folded(term.id): term.id for term in atlas.vocabularies[vocabulary].terms if term.gone}
    ids = {folded(alias): term.id for term in terms for alias in (*term.aliases, term.name or term.id)}
    ids |= gone | {folded(term.id): term.id for term in terms}
    if folded(word) not in ids:
        raise UnknownValueError(f"{field} is never {word!r}; {suggestion(word, [term.id for term in terms])}")
    return atlas.term(vocabulary, ids[folded(word)]).id
