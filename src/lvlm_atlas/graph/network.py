"""The atlas as a networkx graph: techniques, terms and papers as nodes, every relation as a typed edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import networkx as nx

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.edges import Edge
from lvlm_atlas.graph.field_table import FIELDS
from lvlm_atlas.graph.fields import TermField
from lvlm_atlas.graph.laws import Laws, upstream_tokens
from lvlm_atlas.schema.record import refs_in
from lvlm_atlas.schema.system import System
from lvlm_atlas.schema.technique import Technique


def network(atlas: Atlas, interactions: Iterable[Edge], laws: Laws) -> nx.MultiDiGraph[str]:
    """The whole graph; its nodes and edges come in the same order each time.

    A technique's node is its id, a term's `vocabulary:id`, a paper's `paper:key`, a serving system's `system:id`. Which
    technique cascades to which follows from their places, so those edges join places.
    """
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    for technique in atlas.techniques.values():
        graph.add_node(
            technique.id, kind="technique", name=technique.name, summary=technique.summary, status=technique.status
        )
    for vocabulary in sorted(atlas.vocabularies):
        for term in atlas.terms(vocabulary):
            graph.add_node(f"{vocabulary}:{term.id}", kind="term", name=term.name, summary=term.definition)
    for paper in sorted(atlas.papers.values(), key=lambda paper: paper.key):
        graph.add_node(f"paper:{paper.key}", kind="paper", name=paper.title, year=paper.year)
    for system in atlas.systems.values():
        graph.add_node(f"system:{system.id}", kind="system", name=system.name, summary=system.summary)
    keys: Counter[tuple[str, str, str]] = Counter()
    own = (*_of_techniques(atlas), *_of_systems(atlas), *_of_terms(atlas), *_of_places(laws))
    for edge in (*interactions, *own):
        place = (edge.start, edge.end, edge.kind)
        graph.add_edge(
            edge.start,
            edge.end,
            key=f"{edge.kind}.{keys[place]}",
            kind=edge.kind,
            direction="symmetric" if edge.symmetric else "directed",
            reason=edge.reason,
            evidence=edge.evidence,
            # Node-link data and most graph tools keep the names `source` and `target` for the ends.
            provenance=edge.source,
        )
        keys[place] += 1
    return graph


def _of_techniques(atlas: Atlas) -> Iterator[Edge]:
    """What an entry declares in terms of the vocabularies, and the works behind it."""
    for technique in atlas.techniques.values():
        for field in FIELDS:
            # `bound` reads what `relieves` says; the edge comes from the latter and names the stage.
            if isinstance(field, TermField) and field.name != "bound":
                for id_ in field.ids(atlas, technique):
                    yield _declared(atlas, technique, field.name.replace("_", "-"), f"{field.vocabulary}:{id_}")
        for relief in technique.relieves:
            yield _declared(atlas, technique, "relieves", _node(atlas, "bound", relief.bound), f" at {relief.stage}")
        for key in dict.fromkeys((technique.paper, *technique.also)):
            yield _declared(atlas, technique, "paper", f"paper:{key}")


def _declared(atlas: Atlas, technique: Technique, kind: str, end: str, more: str = "") -> Edge:
    return Edge(
        start=technique.id,
        kind=kind,
        end=end,
        reason=f"The entry declares it{more}.",
        evidence="reported",
        paper=technique.paper,
        place=f"entry {atlas.paths[technique.id].as_posix()}",
    )


def _of_systems(atlas: Atlas) -> Iterator[Edge]:
    """How a serving system gets along with techniques, and what it declares in terms of the vocabularies."""
    for system in atlas.systems.values():
        for said in system.relations:
            yield Edge(
                start=f"system:{system.id}",
                kind=said.kind,
                end=atlas.technique(said.with_).id,
                reason=said.reason,
                evidence=said.evidence,
                paper=said.source.paper,
                place=said.source.place,
            )
        ends = [("stage", _node(atlas, "stage", id_)) for id_ in system.stages]
        ends += [("family", _node(atlas, "family", system.family))] if system.family else []
        ends += [("shipped-in", _node(atlas, "engine", shipped.engine)) for shipped in system.shipped_in]
        ends += [("paper", f"paper:{key}") for key in dict.fromkeys((system.paper, *system.also))]
        ends += [("form", f"system:{id_}") for id_ in system.forms]
        for kind, end in ends:
            yield _system_edge(system, kind, end)


def _system_edge(system: System, kind: str, end: str) -> Edge:
    return Edge(
        start=f"system:{system.id}",
        kind=kind,
        end=end,
        reason="The record declares it.",
        evidence="reported",
        paper=system.paper,
        place=f"record catalog/systems/{system.id}.yaml",
    )


def _of_terms(atlas: Atlas) -> Iterator[Edge]:
    """A term's broader term, and the terms of other vocabularies that it names."""
    for vocabulary in sorted(atlas.vocabularies):
        for term in atlas.terms(vocabulary):
            ends = [(str(loc[0]), _node(atlas, to, id_)) for loc, to, id_ in refs_in(term)]
            ends += [("parent", _node(atlas, vocabulary, term.parent))] if term.parent else []
            for kind, end in ends:
                yield Edge(
                    start=f"{vocabulary}:{term.id}",
                    kind=kind,
                    end=end,
                    reason="The taxonomy declares it.",
                    evidence="reported",
                    paper=term.source.paper if term.source else None,
                    place=term.source.place if term.source else None,
                )


def _of_places(laws: Laws) -> Iterator[Edge]:
    """Which place of the pipeline cascades to which."""
    for one, two in laws.cascading():
        yield Edge(
            start=f"position:{one.id}",
            kind=upstream_tokens.kind,
            end=f"position:{two.id}",
            reason=f"What is reduced at {one.name} leaves less for what acts at {two.name}.",
            evidence="derived",
            rules=(upstream_tokens.id,),
        )


def _node(atlas: Atlas, to: str, id_: str) -> str:
    """The node that a reference means; a former id of a term gives the term's node."""
    return f"{to}:{id_ if to == 'paper' else atlas.term(to, id_).id}"
