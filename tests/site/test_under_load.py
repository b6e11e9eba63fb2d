"""Pages on servers under load: computed from the records, and left out where these are not."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.serving.policies import policies
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.load_svg import load_curves
from lvlm_atlas.site.loads import Curve
from lvlm_atlas.site.under_load import under_load_page


def shown(page: Path) -> str:
    return unescape(page.read_text(encoding="utf-8"))


def test_every_layout_is_held_against_the_others_and_has_its_numbers(
    catalog: lvlm_atlas.KnowledgeBase, site: Path
) -> None:
    text = shown(site / "guide/under-load.html")
    for name, (system, layout) in policies(catalog.atlas.systems).items():
        assert f"<code>{name}:" in text
        page = shown(site / f"systems/{system.id}.html")
        assert all(each in page for each in layout.departs)
        assert f"id=load-{name}" in page
        assert f"<code>{name}:" in page


def test_what_a_source_compared_stands_beside_what_comes_out_here(
    catalog: lvlm_atlas.KnowledgeBase, site: Path
) -> None:
    compared = [(system, each) for system in catalog.atlas.systems.values() for each in system.replays]
    assert compared
    for system, record in compared:
        text = shown(site / f"systems/{system.id}.html")
        assert record.printed in text
        assert all(each in text for each in record.differs)
    assert "refused: " not in shown(site / "systems/encoder-disaggregation.html")


def test_a_catalog_without_the_records_has_no_such_page(odd: lvlm_atlas.KnowledgeBase) -> None:
    assert list(under_load_page(Content(odd))) == []


@pytest.mark.parametrize("worst", [0.5, 40.0])
def test_a_curve_lies_within_its_axes_whatever_the_times(worst: float) -> None:
    curves = [Curve("none", ((1.0, 0.2), (4.0, worst))), Curve("fastv", ((1.0, 0.1), (4.0, 0.3)))]
    drawn = str(load_curves(curves, id_="x", title="Times", desc="Of two."))
    assert drawn.count("<circle") == 4
    heights = [float(each.split('"')[1]) for each in drawn.split(" cy=")[1:] for each in ["=" + each]]
    assert all(16 <= height <= 252 for height in heights)
    assert heights[1] == min(heights)
