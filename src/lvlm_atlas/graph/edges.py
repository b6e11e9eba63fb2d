"""Interaction edges: stated by entries, derived by rules from what entries declare, measured in the lab, predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.derivation import RULES
from lvlm_atlas.graph.laws import Laws
from lvlm_atlas.schema.stack import MeasuredStack, Verdict
from lvlm_atlas.schema.vocabulary import InteractionTerm

Evidence = Literal["reported", "reasoned", "derived", "predicted", "measured"]
"""What an edge rests on: the terms of the vocabulary `evidence`."""


COMPUTED: frozenset[Evidence] = frozenset({"predicted", "measured"})
"""Evidence of edges that numbers stand behind, which say what two buy or lose and settle no verdict: that two gains
multiply on paper, or that a small model's answers add up, does not show that the two work together in a large one."""
MEASURED: Mapping[Verdict, str] = {
    "additive": "adds-up-with", "redundant": "overlaps-with", "harmful": "harms-with",
}  # fmt: skip
"""Kinds of the edges that records of pairs are, by what was measured."""


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
    """Of a predicted edge, the logarithm of the factor that it tells of; of a measured one, how far it is from the
    sum."""

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
    not derived again: the statement has the better reason, and notes the rules that agree with it. Measured and
    predicted edges stand beside the others, since their numbers are of another kind.
    """
    stated, derived = list(_stated(laws.atlas, of)), defaultdict(list)
    for edge in _derived(laws.atlas, of):
        derived[edge.key()].append(edge)
    known = {edge.key() for edge in stated}
    edges = [_with_rules(edge, tuple(_agreeing(edge, derived.get(edge.key(), ()), laws))) for edge in stated]
    edges += [edge for key, twins in derived.items() if key not in known for edge in twins]
    edges += _measured(laws.atlas, of)
    edges += (edge for edge in predicted if of is None or of in edge.ends)
    return tuple(
        sorted(
            edges,
            key=lambda edge: (
                edge.start, edge.kind, edge.end, edge.evidence in COMPUTED, edge.source, edge.reason,
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


def _measured(atlas: Atlas, of: str | None) -> Iterator[Edge]:
    """An edge for each pair that has a record; ids of records name their techniques, so that others are not read."""
    for id_ in atlas.stacks:
        ends = id_.split(".")
        if len(ends) == 2 and of in (None, *ends) and all(end in atlas.techniques for end in ends):
            yield measured_edge(atlas.stacks[id_])


def measured_edge(stack: MeasuredStack) -> Edge:
    """The record of a pair as an edge."""
    start, end = sorted(stack.techniques)
    each = stack.departure
    models = "1 model" if len(stack.checkpoints) == 1 else f"{len(stack.checkpoints)} models"
    alone = " and ".join(f"{one.technique} {one.kept:.0%}" for one in stack.members)
    more = "more" if each.value >= 0 else "less"
    reason = (
        f"Of the answers of {models} of the lab, {alone} are kept alone, and {stack.kept:.0%} together: "
        f"{abs(100 * each.value):.1f} points {more} are lost than in sum, 95 % interval {100 * each.low:+.1f} to "
        f"{100 * each.high:+.1f}, {stack.questions:,} questions."
    )
    return Edge(
        start=start, kind=MEASURED[stack.verdict], end=end, reason=reason, evidence="measured", symmetric=True,
        place=f"record {stack.id}", strength=abs(each.value),
    )  # fmt: skip


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
