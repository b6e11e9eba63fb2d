from __future__ import annotations

import subprocess
import sys

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase


def ids(techniques: tuple[object, ...]) -> list[str]:
    return [technique.id for technique in techniques]  # type: ignore[attr-defined]


def test_where_meets_all_fields_and_any_of_several_values(kb: KnowledgeBase) -> None:
    assert ids(kb.where(stage="decoding", relieves="memory-bandwidth")) == ["kivi", "speculative-sampling"]
    assert ids(kb.where(stage=("encoding", "decoding"), query_aware=True)) == ["aks"]
    assert ids(kb.where(year=2023, acts_at="cache")) == ["h2o"]
    assert ids(kb.where(year="<2024", training="finetune")) == ["visionzip"]
    with pytest.raises(AtlasError, match="did you mean 'decoding'"):
        kb.where(stage="decodin")
    with pytest.raises(AtlasError, match="did you mean 'stage'"):
        kb.where(stag="decoding")


def test_edges_and_verdicts_need_neither_networkx_nor_torch() -> None:
    script = (
        "import sys, lvlm_atlas.graph.knowledge, lvlm_atlas.graph.guide, lvlm_atlas.graph.verdict;"
        "sys.exit(bool({'networkx', 'torch'} & set(sys.modules)))"
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
    assert graph.number_of_edges("fastv", "kivi") == 1  # what is stated; that it cascades follows from their places
