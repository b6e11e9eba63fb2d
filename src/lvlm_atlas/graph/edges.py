"""Interaction edges: those that entries state, those that rules derive from what entries declare, and predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.derivation import RULES
from lvlm_atlas.graph.laws import Laws
from lvlm_atlas.schema.vocabulary import InteractionTerm

Evidence = Literal["reported", "reasoned", "derived", "predicted", "measured"]
"""What an edge rests on: the terms of the vocabulary `evidence`."""


class Edge(NamedTuple):
    """One statement about two things, with its reason and where that comes from."""

    start: str
    """What the statement is about: a technique, in an interaction."""
    kind: str
    """What is stated: an interaction's id, or the field of the entry that states it."""
    end: str
    """What it is related to."""
    reason: str
    """Why, for a reader."""
    evidence: Evidence
    """What it rests on."""
    symmetric: bool = False
    """Whether it may be read from either end."""
    paper: str | None = None
    """Key of the source, if somebody wrote it."""
    place: str | None = None
    """Where in the source."""
    rules: tuple[str, ...] = ()
    """Ids of the rules that derive it; a stated edge may be derived as well."""
    strength: float = 0.0
    """Of a predicted edge, the logarithm of the factor that it tells of."""

    @property
    def source(self) -> str:
        """Where to look it up: paper and place, or the rule's id."""
        written = ", ".join(filter(None, (self.paper, self.place)))
        derived = f"rule {', '.join(self.rules)}" if self.rules else ""
        return "; also ".join(filter(None, (written, derived)))

    @property
    def ends(self) -> frozenset[str]:
        """Both ends, whichever way it points."""
        return frozenset((self.start, self.end))

    def other(self, id_: str) -> str:
        """The end that is not `id_`."""
        return self.end if id_ == self.start else self.start

    def key(self) -> tuple[str, object]:
        """Kind and ends, equal for two edges that state the same."""
        return self.kind, self.ends if self.symmetric else (self.start, self.end)


def stored_edges(laws: Laws, predicted: Iterable[Edge] = (), of: str | None = None) -> tuple[Edge, ...]:
    """All interaction edges, or those that touch the technique of an id, but those that laws derive on demand.

    Their order is fixed.

    Entries may state an edge twice, from both ends: both statements stay. An edge that an entry states is
    not derived again: the statement has the better reason, and notes the rules that agree with it. A predicted edge
    stands beside the others, since its numbers are of another kind.
    """
    stated, derived = list(_stated(laws.atlas, of)), defaultdict(list)
    for edge in _derived(laws.atlas, of):
        derived[edge.key()].append(edge)
    known = {edge.key() for edge in stated}
    edges = [_with_rules(edge, tuple(_agreeing(edge, derived.get(edge.key(), ()), laws))) for edge in stated]
    edges += [edge for key, twins in derived.items() if key not in known for edge in twins]
    edges += (edge for edge in predicted if of is None or of in edge.ends)
    return tuple(
        sorted(
            edges,
            key=lambda edge: (
                edge.start, edge.kind, edge.end, edge.evidence == "predicted", edge.source, edge.reason,
            ),
        )
    )  # fmt: skip


def edges_by_law(laws: Laws, start: str, end: str, kind: str | None = None) -> Iterator[Edge]:
    """The edges from one technique to another that laws derive, or those of one kind."""
    for law, reason in laws.hold(start, end, kind):
        yield Edge(start=start, kind=law.kind, end=end, reason=reason, evidence="derived", rules=(law.id,))


def _with_rules(stated: Edge, rules: tuple[str, ...]) -> Edge:
    return stated._replace(rules=rules) if rules else stated


def _agreeing(stated: Edge, derived: Iterable[Edge], laws: Laws) -> Iterator[str]:
    """The rules and laws that say what an entry states."""
    for edge in (*derived, *edges_by_law(laws, stated.start, stated.end, stated.kind)):
        yield from edge.rules


def _stated(atlas: Atlas, of: str | None) -> Iterable[Edge]:
    for technique in atlas.techniques.values():
        for said in technique.interactions:
            end = _target(atlas, technique.id, said.with_)
            if of not in (None, technique.id, end):
                continue
            yield Edge(
                start=technique.id,
                kind=said.kind,
                end=end,
                symmetric=_is_symmetric(atlas, said.kind),
                reason=said.reason,
                evidence=said.evidence,
                paper=said.source.paper,
                place=said.source.place,
            )


def _target(atlas: Atlas, entry: str, target: str) -> str:
    if target in atlas.techniques:
        return target
    try:
        return atlas.technique(target).id
    except AtlasError as error:
        raise AtlasError(f"{atlas.paths[entry]}: interactions: {error}; `lvlm-atlas check` lists such faults") from None


def _derived(atlas: Atlas, of: str | None) -> Iterable[Edge]:
    for rule in RULES:
        symmetric = _is_symmetric(atlas, rule.kind)
        for start, end, reason in rule.pairs(atlas, of):
            yield Edge(
                start=start,
                kind=rule.kind,
                end=end,
                symmetric=symmetric,
                reason=reason,
                evidence="derived",
                rules=(rule.id,),
            )


def _is_symmetric(atlas: Atlas, kind: str) -> bool:
    term = atlas.term("interaction", kind)
    return isinstance(term, InteractionTerm) and term.symmetric
