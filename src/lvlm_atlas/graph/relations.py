"""Relations as readers say them: each kind of interaction forwards, each directed one also backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.shelves import UnknownIdError
from lvlm_atlas.fault import suggestion
from lvlm_atlas.schema.vocabulary import InteractionTerm, Term

if TYPE_CHECKING:
    from lvlm_atlas.graph.edges import Edge


class Relation(NamedTuple):
    """One reading of a kind of interaction."""

    name: str
    """As in a query: `builds-on`, `is-the-base-of`."""
    kind: str
    """The kind of edge it reads."""
    symmetric: bool
    """Whether it reads the same both ways."""
    inverse: bool
    """Whether it reads an edge from its end to its start."""
    reads: str
    """As in a sentence: `builds on`."""
    aliases: tuple[str, ...] = ()
    """Other names a query may use."""

    def holds(self, edge: Edge, subject: str) -> bool:
        """Whether `edge` says that `subject` stands in this relation to the edge's other end."""
        if edge.kind != self.kind or subject not in edge.ends:
            return False
        return self.symmetric or subject == (edge.end if self.inverse else edge.start)


def relations(atlas: Atlas) -> tuple[Relation, ...]:
    """All relations, in the vocabulary's order; the name of an inverse is its reading, with hyphens."""
    relations_ = []
    for term in atlas.terms("interaction"):
        if not isinstance(term, InteractionTerm):
            continue
        relations_.append(
            Relation(term.id, term.id, term.symmetric, False, _reading(term), tuple(map(_hyphened, term.aliases)))
        )
        if term.inverse and not term.symmetric:
            name = _hyphened(term.inverse)
            short = name.replace("-the-", "-")
            relations_.append(Relation(name, term.id, False, True, term.inverse, (short,) if short != name else ()))
    return tuple(relations_)


def relation_named(atlas: Atlas, word: str) -> Relation:
    """The relation of that name or alias; case, `_` and `-` do not matter.

    Raises:
        UnknownIdError: there is none; the message suggests the nearest.
    """
    wanted = _hyphened(word)
    table = relations(atlas)
    for relation in table:
        if wanted == relation.name or wanted in relation.aliases:
            return relation
    raise UnknownIdError(f"no relation {word!r}; {suggestion(wanted, [relation.name for relation in table])}")


def reading(atlas: Atlas, edge: Edge, subject: str) -> str:
    """How `edge` reads from `subject`: `conflicts with`, `is fed by` and so on."""
    term = atlas.term("interaction", edge.kind)
    backwards = not edge.symmetric and subject == edge.end
    if backwards and isinstance(term, InteractionTerm) and term.inverse:
        return term.inverse
    return _reading(term)


def _reading(term: Term) -> str:
    name = term.name or term.id
    return name[0].lower() + name[1:]


def _hyphened(words: str) -> str:
    return "-".join(words.casefold().replace("_", " ").replace("-", " ").split())
