from __future__ import annotations

import subprocess
import sys
from collections import deque

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.neighbourhood import neighbourhood


def ids(techniques: tuple[object, ...]) -> list[str]:
    return [technique.id for technique in techniques]  # type: ignore[attr-defined]


def steps(kb: KnowledgeBase, start: str, kind: str | None) -> dict[str, int]:
    """Distance to every technique, by the plainest breadth-first search."""
    distance, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for edge in kb.edges:
            if here in (edge.start, edge.end) and kind in (None, edge.kind):
                there = edge.end if here == edge.start else edge.start
                if there not in distance:
                    distance[there] = distance[here] + 1
                    queue.append(there)
    return distance


@pytest.mark.parametrize("kind", [None, "conflicts-with", "cascades-to", "builds-on", "requires"])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_within_finds_what_a_search_in_both_directions_finds(kb: KnowledgeBase, hops: int, kind: str | None) -> None:
    for start in kb.atlas.techniques:
        expected = {end for end, distance in steps(kb, start, kind).items() if 0 < distance <= hops}
        assert ids(kb.within(start, hops, kind)) == sorted(expected)


def test_within_wants_at_least_one_step(kb: KnowledgeBase) -> None:
    with pytest.raises(AtlasError, match="at least 1, got 0"):
        kb.within("fastv", 0)


@pytest.mark.parametrize(
    ("one", "two", "value"),
    [
        ("fastv", "kivi", "works"),  # a source composes them
        ("h2o", "kivi", "works"),  # it diminishes it, so both run
        ("minference", "xattention", "breaks"),  # one slot
        ("old-pruner", "minference", "breaks"),  # no map
        ("fastv", "minference", "unknown"),  # a derived cascade is no proof that both run
        ("fastv", "h2o", "unknown"),  # where the bottleneck goes says nothing of a stack
        ("specvlm-ji", "old-pruner", "unknown"),  # superseding neither
        ("aks", "speculative-sampling", "unknown"),
    ],
)
def test_a_pair_works_breaks_or_is_unknown_from_either_side(kb: KnowledgeBase, one: str, two: str, value: str) -> None:
    assert kb.relation(one, two) == kb.relation(two, one)
    verdict = kb.relation(one, two)
    assert verdict.value == value
    assert bool(verdict.edges) == (value != "unknown")


def test_nothing_works_on_the_word_of_a_rule_alone(kb: KnowledgeBase) -> None:
    for one in kb.atlas.techniques:
        for two in kb.atlas.techniques:
            if one != two and kb.relation(one, two).value == "works":
                assert all(edge.evidence != "derived" for edge in kb.relation(one, two).edges)


def test_a_technique_has_no_verdict_with_itself(kb: KnowledgeBase) -> None:
    with pytest.raises(AtlasError, match="are one technique"):
        kb.relation("fastv", "FastV")


def test_related_reads_from_the_given_technique(kb: KnowledgeBase) -> None:
    assert ids(kb.related("specvlm-ji", "builds-on")) == ["speculative-sampling"]
    assert ids(kb.related("speculative-sampling", "is-base-of")) == ["specvlm-ji"]
    assert ids(kb.related("speculative-sampling", "builds_on")) == []
    assert ids(kb.related("fast-vee", "composes-with")) == ["kivi"]
    assert ids(kb.related("KIVI", "Composes With")) == ["fastv"]


def test_where_meets_all_fields_and_any_of_several_values(kb: KnowledgeBase) -> None:
    assert ids(kb.where(stage="decoding", relieves="memory-bandwidth")) == ["kivi", "speculative-sampling"]
    assert ids(kb.where(stage=("encoding", "decoding"), query_aware=True)) == ["aks"]
    assert ids(kb.where(year=2023, acts_at="cache")) == ["h2o"]
    assert ids(kb.where(year="<2024", training="finetune")) == ["visionzip"]
    with pytest.raises(AtlasError, match="did you mean 'decoding'"):
        kb.where(stage="decodin")
    with pytest.raises(AtlasError, match="did you mean 'stage'"):
        kb.where(stag="decoding")


def test_the_neighbourhood_holds_each_edge_on_the_way_out_once(kb: KnowledgeBase) -> None:
    for start in kb.atlas.techniques:
        distance = steps(kb, start, None)
        for depth in (1, 2):
            rows = neighbourhood(kb, start, depth)
            edges = [row.edge for row in rows]
            near = [e for e in kb.edges if min(distance.get(end, 99) for end in e.ends) < depth]
            assert sorted(edges, key=repr) == sorted(near, key=repr)
            assert all(distance[row.id] == row.step - 1 and {row.id, row.other} == row.edge.ends for row in rows)


def test_the_neighbourhood_reads_outwards(kb: KnowledgeBase) -> None:
    rows = {(row.reads, row.other) for row in neighbourhood(kb, "speculative-sampling")}
    assert ("is the base of", "specvlm-ji") in rows
    assert ("is fed by", "fastv") in rows


def test_edges_and_verdicts_need_neither_networkx_nor_lark() -> None:
    script = (
        "import sys, lvlm_atlas.graph.knowledge, lvlm_atlas.graph.guide, lvlm_atlas.graph.verdict;"
        "sys.exit(bool({'networkx', 'lark', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_graph_has_a_node_for_each_technique_term_and_paper_and_no_other(kb: KnowledgeBase) -> None:
    kinds = {node: data["kind"] for node, data in kb.graph.nodes(data=True) if data}
    assert {node for node, kind in kinds.items() if kind == "technique"} == set(kb.atlas.techniques)
    assert kinds["stage:encoding"] == "term"
    assert kinds["paper:doe2025sample"] == "paper"
    # The papers behind the taxonomy are not in this small atlas; every other node is described.
    assert all(node in kinds or node.startswith("paper:") for node in kb.graph)


def test_every_edge_of_the_graph_says_what_why_and_where_from(kb: KnowledgeBase) -> None:
    evidence = {term.id for term in kb.atlas.terms("evidence")}
    for _, _, data in kb.graph.edges(data=True):
        assert data["direction"] in ("directed", "symmetric")
        assert data["evidence"] in evidence
        assert all(data[name] for name in ("kind", "reason", "provenance"))


def test_the_graph_joins_a_technique_to_its_terms_and_a_term_to_the_broader_one(kb: KnowledgeBase) -> None:
    graph = kb.graph
    ends = {(data["kind"], end) for _, end, data in graph.out_edges("fastv", data=True)}
    assert {("stage", "stage:prefilling"), ("acts-at", "position:llm-layer"), ("relieves", "bound:compute"),
            ("need", "need:attention-row"), ("effect", "quantity:llm.vision-tokens"), ("training", "training:none"),
            ("signal", "signal:received-attention"), ("mechanism", "mechanism:token-pruning"),
            ("modality", "modality:video"), ("paper", "paper:doe2025sample"), ("verified", "verification:paper"),
            ("family", "family:token-compression.attention-guided")} <= ends  # fmt: skip
    assert graph.has_edge("bound:memory-capacity", "bound:memory", key="parent.0")
    assert graph.number_of_edges("fastv", "kivi") == 2  # stated composes-with, derived cascades-to
