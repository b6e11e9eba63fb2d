from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable

import networkx as nx
import pytest
import rdflib

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.graph.exports import EXPORTS, to_csv, to_dot, to_graphml, to_json, to_mermaid, to_turtle
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.laws import LAWS
from lvlm_atlas.schema.technique import Technique

NASTY = 'A "quoted" \\ [end] 1 < 2 > | #quot; ; % é'


@pytest.fixture
def nasty(atlas_of: Callable[..., Atlas]) -> KnowledgeBase:
    slot = {"acts_at": ["decode-loop"]}
    return KnowledgeBase(atlas_of(end={**slot, "name": NASTY}, subgraph={**slot}))


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_gives_the_same_text_each_time(kb: KnowledgeBase, name: str) -> None:
    text = EXPORTS[name](kb)
    assert text == EXPORTS[name](KnowledgeBase(kb.atlas))
    assert text.endswith("\n")


def test_the_json_reads_back_as_the_graph_and_the_entries(kb: KnowledgeBase) -> None:
    document = json.loads(to_json(kb))
    graph = nx.node_link_graph(document["graph"], edges="edges")
    assert nx.utils.graphs_equal(graph, kb.graph)
    for id_, entry in document["techniques"].items():
        assert Technique.model_validate_json(json.dumps(entry)) == kb.technique(id_)
    assert list(document) == sorted(document)


@pytest.mark.parametrize("which", ["kb", "nasty"])
def test_the_graphml_is_read_back_by_networkx(which: str, request: pytest.FixtureRequest) -> None:
    kb = request.getfixturevalue(which)
    graph = nx.parse_graphml(to_graphml(kb), force_multigraph=True)
    assert set(graph) == set(kb.graph)
    assert {(a, b, data["kind"], data["reason"]) for a, b, data in graph.edges(data=True)} == {
        (a, b, data["kind"], data["reason"]) for a, b, data in kb.graph.edges(data=True)
    }
    names = {node: data["name"] for node, data in kb.graph.nodes(data=True) if "name" in data}
    assert {node: data["name"] for node, data in graph.nodes(data=True) if "name" in data} == names


def test_graph_tools_find_labels_and_years_as_they_expect(kb: KnowledgeBase) -> None:
    graph = nx.parse_graphml(to_graphml(kb), force_multigraph=True)
    assert graph.nodes["fastv"]["label"] == "FastV"
    assert graph.nodes["fastv"]["labels"] == ":Technique"
    assert graph.nodes["paper:doe2025sample"]["year"] == 2025
    assert all(data["label"] == data["kind"] for *_, data in graph.edges(data=True))


@pytest.mark.parametrize("which", ["kb", "nasty"])
def test_the_csv_has_a_row_an_interaction(which: str, request: pytest.FixtureRequest) -> None:
    kb = request.getfixturevalue(which)
    rows = list(csv.DictReader(io.StringIO(to_csv(kb))))
    assert [(row["source"], row["kind"], row["target"], row["reason"]) for row in rows] == [
        (edge.start, edge.kind, edge.end, edge.reason) for edge in kb.edges
    ]
    assert [row["symmetric"] == "yes" for row in rows] == [edge.symmetric for edge in kb.edges]


@pytest.mark.parametrize("which", ["kb", "nasty"])
def test_the_turtle_is_the_graph_with_its_evidence(which: str, request: pytest.FixtureRequest) -> None:
    kb = request.getfixturevalue(which)
    graph = rdflib.Graph().parse(data=to_turtle(kb), format="turtle")
    ids = {str(row[0]) for row in graph.query("SELECT ?t WHERE { ?t a <urn:lvlm-atlas:atlas:Technique> }")}
    assert ids == {f"urn:lvlm-atlas:technique:{id_}" for id_ in kb.atlas.techniques}
    labels = {str(row[0]) for row in graph.query("SELECT ?l WHERE { ?t a atlas:Technique ; rdfs:label ?l }")}
    assert labels == {technique.name for technique in kb.atlas.techniques.values()}
    for edge in kb.edges:
        ends = [rdflib.URIRef(f"urn:lvlm-atlas:technique:{end}") for end in (edge.start, edge.end)]
        kind = rdflib.URIRef(f"urn:lvlm-atlas:atlas:{edge.kind}")
        assert (ends[0], kind, ends[1]) in graph
        (node,) = (
            node
            for node in graph.subjects(rdflib.RDF.subject, ends[0])
            if (node, rdflib.RDF.predicate, kind) in graph and (node, rdflib.RDF.object, ends[1]) in graph
            if (node, rdflib.RDFS.comment, rdflib.Literal(edge.reason)) in graph
        )
        evidence = rdflib.URIRef(f"urn:lvlm-atlas:evidence:{edge.evidence}")
        assert (node, rdflib.URIRef("urn:lvlm-atlas:atlas:evidence"), evidence) in graph


def test_terms_are_concepts_below_their_broader_ones(kb: KnowledgeBase) -> None:
    graph = rdflib.Graph().parse(data=to_turtle(kb), format="turtle")
    query = "SELECT ?t WHERE { ?t atlas:family/skos:broader* family:token-compression }"
    wanted = kb.query("family:token-compression").ids
    assert {str(row[0]).rpartition(":")[2] for row in graph.query(query)} == set(wanted)


def test_the_json_states_each_law_once_and_joins_the_places(kb: KnowledgeBase) -> None:
    document = json.loads(to_json(kb))
    assert [law["id"] for law in document["laws"]] == [law.id for law in LAWS]
    edges = document["graph"]["edges"]
    cascades = {(edge["source"], edge["target"]) for edge in edges if edge["kind"] == "cascades-to"}
    assert ("position:llm-input", "position:cache-bits") in cascades
    assert all(end.startswith("position:") for ends in cascades for end in ends)


@pytest.mark.parametrize(("drawing", "sign"), [(to_mermaid, "%%"), (to_dot, "//")])
def test_a_drawing_of_all_says_which_laws_it_leaves_out(
    kb: KnowledgeBase, drawing: Callable[[KnowledgeBase], str], sign: str
) -> None:
    notes = [line.strip() for line in drawing(kb).splitlines() if line.strip().startswith(sign)]
    assert len(notes) == len(LAWS)
    assert all(law.id in note for law, note in zip(LAWS, notes, strict=True))


def test_mermaid_quotes_what_it_would_take_for_signs(nasty: KnowledgeBase) -> None:
    header, *lines = to_mermaid(nasty).splitlines()
    assert header == "flowchart LR"
    assert re.fullmatch(r'  n0\["[^"\[\]<>|\\%{}]*"\]', lines[0])
    codes = re.sub(r"#(\d+);", lambda match: chr(int(match[1])), lines[0])
    assert codes == f'  n0["{NASTY}"]'
    assert lines[2] == '  n0 ---|"conflicts-with"| n1'


def test_dot_quotes_backslashes_and_quotation_marks(nasty: KnowledgeBase) -> None:
    text = to_dot(nasty)
    assert r'"end" [label="A \"quoted\" \\ [end]' in text
    assert '"end" -> "subgraph" [label="conflicts-with"' in text
    assert "dir=none" in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_reads_the_dot(nasty: KnowledgeBase) -> None:
    subprocess.run(["dot", "-Tplain"], input=to_dot(nasty), text=True, check=True, capture_output=True)


def test_a_drawing_of_some_techniques_holds_them_and_what_joins_them(kb: KnowledgeBase) -> None:
    text = to_dot(kb, ["minference", "XAttention"])
    assert text.count("[label=") == 3
    assert '"minference" -> "xattention" [label="conflicts-with"' in text
    assert "fastv" not in text
    assert to_mermaid(kb, []) == "flowchart LR\n"
