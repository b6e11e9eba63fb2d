"""The interactions between the techniques of an atlas: stored as edges, or derived by a law for those asked about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations
from typing import TYPE_CHECKING

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.paths import Adjacency, adjacency, shortest_paths
from lvlm_atlas.graph.relations import relation_named
from lvlm_atlas.schema.technique import Technique

if TYPE_CHECKING:
    from lvlm_atlas.graph.edges import Edge
    from lvlm_atlas.graph.laws import Laws
    from lvlm_atlas.graph.verdict import Verdict

# A query on fields alone asks for no edge; what a caller does not use is not imported.
# ruff: noqa: PLC0415


@dataclass(frozen=True, eq=False)
class Interactions:
    """An atlas, and the edges between its techniques."""

    atlas: Atlas
    predicted: tuple[Edge, ...] = ()
    """Interactions that somebody computed, as `planner.predicted` does; they show, and decide no verdict."""

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The stored interactions: stated, derived and predicted, without those that `laws` derive on demand."""
        from lvlm_atlas.graph.edges import stored_edges

        return stored_edges(self.laws, self.predicted)

    @cached_property
    def laws(self) -> Laws:
        """What holds between techniques by their places in the pipeline."""
        from lvlm_atlas.graph.laws import Laws

        return Laws(self.atlas)

    def technique(self, id_: str) -> Technique:
        """The technique of that id, former id, name or alias.

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
        """
        return self.atlas.technique(id_)

    def interactions(self, id_: str) -> tuple[Edge, ...]:
        """Every stored edge that touches a technique, from whichever end it was stated."""
        return self._touching(self.technique(id_).id)

    def of_kind(self, id_: str, kind: str) -> tuple[Edge, ...]:
        """Every edge of one kind that touches a technique: the stored ones, and those that laws derive."""
        id_ = self.technique(id_).id
        stored = tuple(edge for edge in self._touching(id_) if edge.kind == kind)
        if not _has_law(kind):
            return stored
        others = (other for other in self.atlas.techniques if other != id_)
        both_ways = (ends for other in others for ends in ((id_, other), (other, id_)))
        return (*stored, *self._by_law(both_ways, kind))

    def related(self, id_: str, relation: str) -> tuple[Technique, ...]:
        """The techniques to which `id_` stands in a relation: `related(x, "builds-on")` is what x builds on.

        Raises:
            UnknownIdError: no such technique or relation; the message suggests the nearest.
        """
        subject = self.technique(id_).id
        named = relation_named(self.atlas, relation)
        ids = {edge.other(subject) for edge in self.of_kind(subject, named.kind) if named.holds(edge, subject)}
        return self._ascending(ids)

    def within(self, id_: str, hops: int, kind: str | None = None) -> tuple[Technique, ...]:
        """The other techniques at most `hops` interactions away, in any direction, or interactions of one kind.

        Steps are stored edges; those of a law count only where its kind is asked for, since in two of them one
        reaches nearly every technique.

        Raises:
            AtlasError: no such technique or relation, or `hops` is below 1.
        """
        return self._ascending(set(self.paths(id_, hops, kind)))

    def paths(self, id_: str, hops: int, kind: str | None = None) -> dict[str, list[str]]:
        """A shortest path to each technique that `within` finds, as ids."""
        if not isinstance(hops, int):
            raise AtlasError(f"the number of steps is {hops!r}, no whole number; `path(one, two)` joins two techniques")
        if hops < 1:
            raise AtlasError(f"the number of steps is at least 1, got {hops}")
        start = self.technique(id_).id
        of_kind = relation_named(self.atlas, kind).kind if kind else None
        if of_kind not in self._adjacency:
            edges: Iterable[Edge] = self.edges
            if of_kind and _has_law(of_kind):
                edges = (*edges, *self._by_law(permutations(self.atlas.techniques, 2), of_kind))
            self._adjacency[of_kind] = adjacency(edges, of_kind)
        return shortest_paths(self._adjacency[of_kind], start, hops)

    def path(self, one: str, two: str) -> tuple[tuple[Edge, ...], ...]:
        """A shortest way between two techniques over stored interactions: for each step every edge that makes it.

        Empty where nothing joins them.

        Raises:
            AtlasError: an id is unknown, or both name the same technique.
        """
        ends = (self.technique(one).id, self.technique(two).id)
        if ends[0] == ends[1]:
            raise AtlasError(f"{one!r} and {two!r} are one technique; name two")
        ids = self.paths(ends[0], len(self.atlas.techniques)).get(ends[1], [])
        return tuple(self._joining(*step) for step in pairwise(ids))

    def between(self, one: str, two: str) -> tuple[Edge, ...]:
        """Every edge between two techniques: the stored ones, then those that laws derive."""
        return tuple(self.each_between(one, two))

    def each_between(self, one: str, two: str) -> Iterator[Edge]:
        """The same one after the other: who needs the first alone has no law looked at."""
        one, two = self.technique(one).id, self.technique(two).id
        yield from self._joining(one, two)
        yield from self._by_law(permutations(sorted({one, two}), 2))

    def relation(self, one: str, two: str) -> Verdict:
        """Whether two techniques work together, break each other, or neither is known.

        Raises:
            AtlasError: an id is unknown, or both name the same technique.
        """
        from lvlm_atlas.graph.verdict import verdict

        ends = (self.technique(one).id, self.technique(two).id)
        if ends[0] == ends[1]:
            raise AtlasError(f"{one!r} and {two!r} are one technique; name two")
        pair = frozenset(ends)
        if pair not in self._verdicts:
            self._verdicts[pair] = verdict(self._joining(*ends))  # what a law derives settles nothing
        return self._verdicts[pair]

    def _by_law(self, pairs: Iterable[tuple[str, ...]], kind: str | None = None) -> Iterator[Edge]:
        """What laws derive for pairs of start and end, unless an entry or a rule says as much or more of both."""
        from lvlm_atlas.graph.edges import edges_by_law
        from lvlm_atlas.graph.laws import LAWS

        for start, end in pairs:
            for edge in edges_by_law(self.laws, start, end, kind):
                yields_to = next(law.yields_to for law in LAWS if law.id in edge.rules)
                known = [other for other in self._joining(start, end) if other.evidence != "predicted"]
                if not any(other.kind in yields_to or other.key() == edge.key() for other in known):
                    yield edge

    def _touching(self, id_: str) -> tuple[Edge, ...]:
        """The stored edges of one technique, without those of all where nobody has asked for these."""
        if "edges" in vars(self):
            return self._by_end.get(id_, ())
        if id_ not in self._of_one:
            from lvlm_atlas.graph.edges import stored_edges

            self._of_one[id_] = stored_edges(self.laws, self.predicted, id_)
        return self._of_one[id_]

    def _joining(self, one: str, two: str) -> tuple[Edge, ...]:
        """The stored edges between two techniques."""
        known, other = (two, one) if two in self._of_one else (one, two)
        return tuple(edge for edge in self._touching(known) if edge.other(known) == other)

    @cached_property
    def _verdicts(self) -> dict[frozenset[str], Verdict]:
        return {}

    @cached_property
    def _of_one(self) -> dict[str, tuple[Edge, ...]]:
        return {}

    @cached_property
    def _by_end(self) -> dict[str, tuple[Edge, ...]]:
        by_end = defaultdict(list)
        for edge in self.edges:
            for end in edge.ends:
                by_end[end].append(edge)
        return {id_: tuple(edges) for id_, edges in by_end.items()}

    @cached_property
    def _adjacency(self) -> dict[str | None, Adjacency]:
        return {}

    def _ascending(self, ids: set[str]) -> tuple[Technique, ...]:
        return tuple(self.atlas.techniques[id_] for id_ in sorted(ids))


def _has_law(kind: str) -> bool:
    from lvlm_atlas.graph.laws import LAWS

    return any(law.kind == kind for law in LAWS)
