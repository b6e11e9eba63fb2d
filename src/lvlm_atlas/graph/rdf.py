"""The knowledge base as RDF: vocabularies in SKOS, works in Dublin Core, techniques and interactions in own terms.

A technique is `urn:lvlm-atlas:technique:ID`, a term `urn:lvlm-atlas:VOCABULARY:ID`. What an entry declares in terms of
a vocabulary is one triple (`?t atlas:stage stage:prefilling`). So is an interaction (`?a atlas:composes-with ?b`),
beside a node of the type `atlas:Interaction` that says on what evidence.
"""

from __future__ import annotations

from rdflib import RDF, RDFS, Graph, Literal, Namespace, URIRef
from rdflib.namespace import DCTERMS, SKOS, XSD

from lvlm_atlas.graph.knowledge import KnowledgeBase

BASE = "urn:lvlm-atlas:"
"""What every name begins with."""
ATLAS = Namespace(f"{BASE}atlas:")
"""Our own classes and properties."""
_SKOS = {"parent": SKOS.broader}
"""Edges of the graph for which SKOS has a property."""


def rdf(kb: KnowledgeBase) -> Graph:
    """The whole graph."""
    graph = Graph()
    graph.bind("atlas", ATLAS)
    for kind in ("technique", "system", "paper", *sorted(kb.atlas.vocabularies)):
        graph.bind(kind, Namespace(f"{BASE}{kind}:"))
    _add_vocabularies(graph, kb)
    _add_works(graph, kb)
    for node, data in kb.graph.nodes(data=True):
        if data.get("kind") in ("technique", "system"):
            graph.add((_name(node), RDF.type, ATLAS[data["kind"].capitalize()]))
            graph.add((_name(node), RDFS.label, Literal(data["name"])))
            graph.add((_name(node), SKOS.definition, Literal(data["summary"])))
    for technique in kb.atlas.techniques.values():
        for alias in technique.aliases:
            graph.add((_name(technique.id), SKOS.altLabel, Literal(alias)))
    for start, end, data in kb.graph.edges(data=True):
        graph.add((_name(start), _SKOS.get(data["kind"], ATLAS[data["kind"]]), _name(end)))
    _add_interactions(graph, kb)
    return graph


def _add_vocabularies(graph: Graph, kb: KnowledgeBase) -> None:
    """A concept scheme a vocabulary, a concept a term."""
    for name, vocabulary in kb.atlas.vocabularies.items():
        scheme = URIRef(f"{BASE}{name}")
        graph.add((scheme, RDF.type, SKOS.ConceptScheme))
        graph.add((scheme, RDFS.label, Literal(name)))
        graph.add((scheme, SKOS.definition, Literal(vocabulary.definition)))
        for term in kb.atlas.terms(name):
            concept = _name(f"{name}:{term.id}")
            graph.add((concept, RDF.type, SKOS.Concept))
            graph.add((concept, SKOS.inScheme, scheme))
            graph.add((concept, SKOS.prefLabel, Literal(term.name or term.id)))
            graph.add((concept, SKOS.definition, Literal(term.definition)))
            for alias in term.aliases:
                graph.add((concept, SKOS.altLabel, Literal(alias)))


def _add_works(graph: Graph, kb: KnowledgeBase) -> None:
    for paper in kb.atlas.papers.values():
        work = _name(f"paper:{paper.key}")
        graph.add((work, RDF.type, DCTERMS.BibliographicResource))
        graph.add((work, DCTERMS.title, Literal(paper.title)))
        graph.add((work, DCTERMS.issued, Literal(str(paper.year), datatype=XSD.gYear)))
        graph.add((work, DCTERMS.identifier, Literal(paper.url, datatype=XSD.anyURI)))
        for author in paper.authors:
            graph.add((work, DCTERMS.creator, Literal(author)))


def _add_interactions(graph: Graph, kb: KnowledgeBase) -> None:
    """A node an interaction between two techniques, for the evidence, which a triple cannot carry."""
    for number, edge in enumerate(kb.edges, start=1):
        node = URIRef(f"{BASE}edge:{number}")
        graph.add((node, RDF.type, ATLAS.Interaction))
        graph.add((node, RDF.subject, _name(edge.start)))
        graph.add((node, RDF.predicate, ATLAS[edge.kind]))
        graph.add((node, RDF.object, _name(edge.end)))
        graph.add((node, ATLAS.evidence, _name(f"evidence:{edge.evidence}")))
        graph.add((node, RDFS.comment, Literal(edge.reason)))
        graph.add((node, DCTERMS.source, Literal(edge.source)))


def _name(node: str) -> URIRef:
    """The name of a node of the graph; a technique's id stands for itself there."""
    return URIRef(f"{BASE}{node if ':' in node else f'technique:{node}'}")
