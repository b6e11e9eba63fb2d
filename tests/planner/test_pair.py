"""Two techniques together: what their gains make, and the edges that follow."""

from __future__ import annotations

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.predicted import predicted_edges, with_predictions

ASKED = ("qwen2.5-vl-7b", "h200", "images-20")


def test_what_is_pruned_before_the_llm_is_not_there_to_be_pruned_in_it(planner: Planner) -> None:
    pair = planner.interactions("divprune", "fastv", *ASKED)
    assert pair.kind == "diminishing"
    assert pair.gain("total").ratio < 0.98
    assert "prefilling is" in pair.why


def test_relieving_one_stage_makes_the_others_relief_count_for_more(planner: Planner) -> None:
    pair = planner.interactions("divprune", "speculative-sampling", *ASKED)
    assert pair.kind == "synergy"
    assert "decoding is" in pair.why


def test_a_pair_is_the_same_from_both_sides(planner: Planner) -> None:
    one, two = planner.interactions("kivi", "fastv", *ASKED), planner.interactions("fastv", "kivi", *ASKED)
    for figure in ("ttft", "tpot", "total", "memory"):
        assert one.gain(figure).ratio == pytest.approx(two.gain(figure).ratio)
    assert one.kind == two.kind


def test_a_pair_in_conflict_is_refused_with_its_reason(planner: Planner) -> None:
    with pytest.raises(AtlasError, match="cannot share a stack"):
        planner.interactions("look-m", "xattention", *ASKED)


def test_predicted_edges_are_labelled_carry_their_numbers_and_settle_nothing(planner: Planner) -> None:
    edges = predicted_edges(planner)
    kb = with_predictions(planner)
    assert edges
    assert {edge.evidence for edge in edges} == {"predicted"}
    assert all("× against " in edge.reason and "roofline, " in edge.source for edge in edges)
    assert {edge.kind for edge in edges} <= {"composes-with", "diminishes", "shifts-bottleneck-to"}
    for edge in edges:
        assert edge in kb.edges
        assert edge in kb.interactions(edge.start)
        assert kb.relation(edge.start, edge.end) == planner.kb.relation(edge.start, edge.end)
        if edge.kind == "composes-with":  # what nobody has stated is not predicted into being
            assert planner.kb.relation(edge.start, edge.end).value == "works"


def test_without_predictions_the_graph_has_none(planner: Planner) -> None:
    assert not any(edge.evidence == "predicted" for edge in KnowledgeBase(planner.kb.atlas).edges)
