"""Two techniques together: what their gains make, and the edges that follow."""

from __future__ import annotations

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner

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
