"""The knowledge base: an atlas with its relations, for Python. `lvlm_atlas.load()` returns it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.edges import Edge, interactions
from lvlm_atlas.graph.relations import relation_named
from lvlm_atlas.graph.verdict import Verdict, verdict
from lvlm_atlas.schema.technique import Technique

if TYPE_CHECKING:
    import networkx as nx

    from lvlm_atlas.graph.answer import Answer
    from lvlm_atlas.graph.results import ReportedResult

# networkx takes 0.2 s to import and lark 0.1 s; what a caller does not use is not imported.
# ruff: noqa: PLC0415

Value = str | bool | int
"""A value of a field, as `where` takes it."""


@dataclass(frozen=True)
class KnowledgeBase:
    """An atlas, the edges between its techniques, and the questions one can ask of them."""

    atlas: Atlas
    predicted: tuple[Edge, ...] = ()
    """Interactions that somebody computed, as `planner.predicted` does; they show, and decide no verdict."""

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All interactions: stated, derived and predicted."""
        return interactions(self.atlas, self.predicted)

    @cached_property
    def graph(self) -> nx.MultiDiGraph[str]:
        """Techniques, terms and papers as one networkx graph."""
        from lvlm_atlas.graph.network import network

        return network(self.atlas, self.edges)

    def technique(self, id_: str) -> Technique:
        """The technique of that id, former id, name or alias.

        Raises:
            UnknownIdError: there is none; the message suggests the nearest.
        """
        return self.atlas.techniques.get(id_) or self.atlas.technique(id_)

    def query(self, text: str) -> Answer:
        """The techniques that a query finds, each with its reasons.

        Raises:
            QueryError: the query cannot be answered as written.
        """
        from lvlm_atlas.graph.query import answer

        return answer(self, text)

    def where(self, **conditions: Value | tuple[Value, ...]) -> tuple[Technique, ...]:
        """The techniques that meet all conditions, given as `field=value`; of a tuple, any value will do.

        A year may be compared, as in `where(year=">=2024")`.

        Raises:
            AtlasError: there is no such field, or the field has no such value.
        """
        from lvlm_atlas.graph.field_table import field_named

        found = list(self.atlas.techniques.values())
        for name, given in conditions.items():
            field = field_named(name)
            values = given if isinstance(given, tuple) else (given,)
            tests = [field.test(self.atlas, str(value)) for value in values]
            found = [technique for technique in found if any(test(technique) is not None for test in tests)]
        return tuple(found)

    def results(
        self,
        query: str | None = None,
        *,
        benchmark: str | None = None,
        metric: str | None = None,
        model: str | None = None,
    ) -> tuple[ReportedResult, ...]:
        """Numbers that sources report of the techniques that a query finds, by default of all.

        Those of one benchmark or metric and of one model stand together, the most vision tokens kept first;
        see `graph.results.results`.

        Raises:
            AtlasError: the query cannot be answered as written, or there is no such benchmark, metric or model.
        """
        from lvlm_atlas.graph.results import results

        found = self.atlas.techniques.values() if query is None else (row.technique for row in self.query(query).rows)
        return results(self.atlas, found, benchmark=benchmark, metric=metric, model=model)

    def interactions(self, id_: str) -> tuple[Edge, ...]:
        """Every edge that touches a technique, from whichever end it was stated."""
        return self._touching[self.technique(id_).id]

    def related(self, id_: str, relation: str) -> tuple[Technique, ...]:
        """The techniques to which `id_` stands in a relation: `related(x, "builds-on")` is what x builds on.

        Raises:
            UnknownIdError: no such technique or relation; the message suggests the nearest.
        """
        subject = self.technique(id_).id
        named = relation_named(self.atlas, relation)
        ids = {edge.other(subject) for edge in self._touching[subject] if named.holds(edge, subject)}
        return self._ascending(ids)

    def within(self, id_: str, hops: int, kind: str | None = None) -> tuple[Technique, ...]:
        """The other techniques at most `hops` interactions away, in any direction, or interactions of one kind.

        Raises:
            AtlasError: no such technique or relation, or `hops` is below 1.
        """
        return self._ascending(set(self.paths(id_, hops, kind)))

    def paths(self, id_: str, hops: int, kind: str | None = None) -> dict[str, list[str]]:
        """A shortest path to each technique that `within` finds, as ids."""
        from lvlm_atlas.graph.network import paths_from, undirected

        if hops < 1:
            raise AtlasError(f"the number of steps is at least 1, got {hops}")
        start = self.technique(id_).id
        of_kind = relation_named(self.atlas, kind).kind if kind else None
        if of_kind not in self._undirected:
            self._undirected[of_kind] = undirected(self.edges, of_kind)
        return paths_from(self._undirected[of_kind], start, hops)

    def between(self, one: str, two: str) -> tuple[Edge, ...]:
        """Every edge between two techniques."""
        return self._joining.get(frozenset((self.technique(one).id, self.technique(two).id)), ())

    def relation(self, one: str, two: str) -> Verdict:
        """Whether two techniques work together, break each other, or neither is known.

        Raises:
            AtlasError: an id is unknown, or both name the same technique.
        """
        if self.technique(one) is self.technique(two):
            raise AtlasError(f"{one!r} and {two!r} are one technique; name two")
        return verdict(self.between(one, two))

    @cached_property
    def _touching(self) -> dict[str, tuple[Edge, ...]]:
        found = defaultdict(list)
        for edge in self.edges:
            for end in sorted(edge.ends):
                found[end].append(edge)
        return {id_: tuple(found[id_]) for id_ in self.atlas.techniques}

    @cached_property
    def _joining(self) -> dict[frozenset[str], tuple[Edge, ...]]:
        found = defaultdict(list)
        for edge in self.edges:
            found[edge.ends].append(edge)
        return {ends: tuple(edges) for ends, edges in found.items()}

    @cached_property
    def _undirected(self) -> dict[str | None, nx.Graph[str]]:
        return {}

    def _ascending(self, ids: set[str]) -> tuple[Technique, ...]:
        return tuple(self.atlas.techniques[id_] for id_ in sorted(ids))
