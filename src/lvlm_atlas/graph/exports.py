"""The knowledge base for other tools: JSON, GraphML, CSV, RDF, Mermaid, Graphviz. Equal data give equal bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict

import networkx as nx

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.edges import COMPUTED, Edge
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.laws import LAWS

FORMAT = "lvlm-atlas-graph/2"
"""Names the layout of the JSON; the number rises when a key changes its meaning."""


def to_json(kb: KnowledgeBase) -> str:
    """The graph as node-link data (for `networkx.node_link_graph(…, edges="edges")`) beside every entry.

    Laws stand in words: they join techniques by their places and quantities, and the graph joins the places.
    """
    atlas = kb.atlas
    document = {
        "format": FORMAT,
        "data": asdict(kb.edition),
        "graph": nx.node_link_data(kb.graph, edges="edges"),
        "techniques": {id_: t.model_dump(mode="json", by_alias=True) for id_, t in atlas.techniques.items()},
        "laws": [{"id": law.id, "kind": law.kind, "why": law.why} for law in LAWS],
        "redirects": {id_: list(ids) for id_, ids in atlas.redirects.items()},
        "vocabularies": {
            name: [term.model_dump(mode="json", exclude_none=True) for term in atlas.terms(name)]
            for name in atlas.vocabularies
        },
        "papers": {
            key: {
                "title": paper.title,
                "authors": list(paper.authors),
                "year": paper.year,
                "venue": paper.venue,
                "url": paper.url,
                "arxiv": paper.arxiv,
                "doi": paper.doi,
            }
            for key, paper in atlas.papers.items()
        },
        "systems": {id_: s.model_dump(mode="json", by_alias=True) for id_, s in atlas.systems.items()},
        "runtimes": {id_: r.model_dump(mode="json") for id_, r in atlas.runtimes.items()},
        "timings": {id_: t.model_dump(mode="json") for id_, t in atlas.timings.items()},
        "measurements": {id_: m.model_dump(mode="json") for id_, m in atlas.measurements.items()},
    }
    return json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False) + "\n"


def to_graphml(kb: KnowledgeBase) -> str:
    """The whole graph as GraphML, with the attributes by which Gephi (`label`) and Neo4j (`labels`) tell nodes apart.

    Years are numbers, all else is text; what a node or an edge lacks is left out.
    """
    flat: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    for node, data in kb.graph.nodes(data=True):
        named = {"label": data.get("name", node), "labels": f":{data.get('kind', 'node').capitalize()}"}
        flat.add_node(node, **named, **{name: value for name, value in data.items() if value is not None})
    for start, end, key, data in kb.graph.edges(keys=True, data=True):
        flat.add_edge(start, end, key=key, label=data["kind"], **{n: v for n, v in data.items() if v is not None})
    return "\n".join(nx.generate_graphml(flat)) + "\n"


def to_csv(kb: KnowledgeBase) -> str:
    """A row an interaction between two techniques, for spreadsheets."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("source", "kind", "target", "symmetric", "evidence", "reason", "paper", "place"))
    for edge in kb.edges:
        ends = (edge.start, edge.kind, edge.end, "yes" if edge.symmetric else "no")
        rows.writerow((*ends, edge.evidence, edge.reason, edge.paper, edge.place))
    return text.getvalue()


def to_turtle(kb: KnowledgeBase) -> str:
    """The whole graph as RDF; see `graph.rdf`. Needs the rdf extra."""
    try:
        from lvlm_atlas.graph.rdf import rdf  # noqa: PLC0415 - rdflib is an extra
    except ImportError:
        raise AtlasError(
            "turtle needs rdflib; install it with: pip install 'lvlm-atlas[rdf]', in a checkout '.[rdf]'"
        ) from None
    text: str = rdf(kb).serialize(format="turtle")
    return text.strip() + "\n"


def to_mermaid(kb: KnowledgeBase, ids: Collection[str] | None = None) -> str:
    """Techniques and their interactions as a Mermaid flowchart; of some techniques, if given."""
    chosen, edges = _drawn(kb, ids)
    # Mermaid's own words (`end`, `class`) and our hyphens are no node names, so nodes are numbered.
    names = {id_: f"n{number}" for number, id_ in enumerate(chosen)}
    lines = ["flowchart LR"]
    lines += [f'  {names[id_]}["{_mermaid(kb.atlas.techniques[id_].name)}"]' for id_ in chosen]
    lines += [
        f'  {names[edge.start]} {"---" if edge.symmetric else "-->"}|"{_mermaid(_labelled(edge))}"| {names[edge.end]}'
        for edge in edges
    ]
    lines += [f"%% {law}" for law in _laws()] if ids is None else []
    return "\n".join(lines) + "\n"


def to_dot(kb: KnowledgeBase, ids: Collection[str] | None = None) -> str:
    """Techniques and their interactions in Graphviz' language; of some techniques, if given."""
    chosen, edges = _drawn(kb, ids)
    lines = ["digraph atlas {", "  rankdir=LR;"]
    lines += [f"  {_dot(id_)} [label={_dot(kb.atlas.techniques[id_].name)}];" for id_ in chosen]
    for edge in edges:
        arrow = ", dir=none" if edge.symmetric else ""
        tooltip = _dot(f"{edge.reason} ({edge.evidence}: {edge.source})")
        lines.append(
            f"  {_dot(edge.start)} -> {_dot(edge.end)} [label={_dot(_labelled(edge))}, tooltip={tooltip}{arrow}];"
        )
    lines += [f"  // {law}" for law in _laws()] if ids is None else []
    return "\n".join([*lines, "}"]) + "\n"


EXPORTS: Mapping[str, Callable[[KnowledgeBase], str]] = {
    "json": to_json,
    "graphml": to_graphml,
    "csv": to_csv,
    "turtle": to_turtle,
    "mermaid": to_mermaid,
    "dot": to_dot,
}
"""Every export by its name."""


def _laws() -> Iterator[str]:
    """What is not drawn, since it would join nearly all."""
    return (f"Not drawn: {law.kind} by the law {law.id}. {law.why}" for law in LAWS)


def _labelled(edge: Edge) -> str:
    """The kind, and that it is predicted or measured, which nobody must take for a statement."""
    return f"{edge.kind} ({edge.evidence})" if edge.evidence in COMPUTED else edge.kind


def _drawn(kb: KnowledgeBase, ids: Collection[str] | None) -> tuple[list[str], list[Edge]]:
    """The techniques to draw, and one edge for each kind between two of them."""
    chosen = {kb.technique(id_).id for id_ in (kb.atlas.techniques if ids is None else ids)}
    edges: dict[object, Edge] = {}
    for edge in kb.edges:
        if edge.ends <= chosen:
            edges.setdefault(edge.key(), edge)
    return sorted(chosen), list(edges.values())


def _mermaid(text: str) -> str:
    """The text with everything that Mermaid reads as a sign written as an entity."""
    return "".join(ch if ch.isalnum() or ch in " -.,:()/" else f"#{ord(ch)};" for ch in text)


def _dot(text: str) -> str:
    """A quoted string of Graphviz' language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
