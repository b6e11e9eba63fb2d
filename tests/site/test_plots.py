"""The drawings of the tool pages: all pairs at one glance, and curves whose points are the engine's numbers."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from lvlm_atlas.planner import Planner
from lvlm_atlas.roofline import units
from lvlm_atlas.site.answers.card import pairs
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.pairs_svg import CELL, pair_matrix
from lvlm_atlas.site.plots import Plots
from lvlm_atlas.site.svg import apart

PLANNER = Planner()
CONTENT = Content(PLANNER.kb)


@pytest.fixture(scope="module")
def plots() -> Any:
    return next(Plots(CONTENT).page()).context


def test_the_matrix_draws_each_pair_as_the_graph_judges_it() -> None:
    letters = pairs(CONTENT)
    order = [technique.id for technique in CONTENT.techniques]
    row, column = order.index("fastv"), order.index("kivi")
    assert letters[row][column] == letters[column][row] == PLANNER.kb.relation("fastv", "kivi").value[0]
    drawing = str(pair_matrix(CONTENT, letters, id_="m"))
    broken = re.search(r'd="([^"]*)" class="la-pair-breaks"', drawing)
    works = re.search(r'd="([^"]*)" class="la-pair-works"', drawing)
    assert broken
    assert works
    cells = sum(float(width) / CELL for width in re.findall(r"h(\d+(?:\.\d+)?)v", broken[1]))
    assert cells == sum(line.count("b") for line in letters)
    assert works[1].count("z") == sum(line.count("w") for line in letters)


def test_labels_are_moved_apart_but_not_out_of_the_drawing() -> None:
    heights = apart([10, 11, 12, 99, 100], 10, 100, 15)
    assert heights == sorted(heights)
    assert all(two - one >= 15 for one, two in pairwise(heights))
    assert max(heights) <= 100
    assert apart([], 0, 10, 5) == []


def test_the_curve_of_images_has_the_times_of_estimates(plots: Any) -> None:
    for count in (1, 64):
        request = PLANNER.request("images-20", images=count)
        shown = units.seconds(PLANNER.estimate("qwen2.5-vl-7b", "h200", request).ttft_s)
        assert f"no technique: {shown} at {count}" in plots["images"]


def test_the_curve_of_a_small_cache_has_the_gains_of_estimates(plots: Any) -> None:
    request = PLANNER.request("single-image-chat", text=64_000, batch=8)
    plain, small = (PLANNER.estimate("qwen2.5-vl-7b", "h200", request, stack=stack) for stack in ((), "kivi"))
    assert f"batch 8: {plain.tpot_s / small.tpot_s:.2f} × at 64,000" in plots["cache"]


def test_stages_move_under_techniques_that_are_known_to_work_together(plots: Any) -> None:
    best = plots["best"]
    assert len(best) > 1
    assert all(PLANNER.kb.relation(one, two).value == "works" for at, one in enumerate(best) for two in best[at + 1 :])
    assert plots["moved"].total_s < plots["plain"].total_s
    assert plots["roof"].count("la-hollow") == 3


def test_every_technique_of_the_risk_plot_links_to_its_page(plots: Any) -> None:
    drawing = plots["risks"](lambda kind, id_: f"{kind}/{id_}")
    assert drawing.count("<a ") == len(plots["alone"])
    assert "technique/fastv" in drawing
