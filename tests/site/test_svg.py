"""Drawings are well-formed, say what they show, and link to pages that exist."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

import lvlm_atlas
from lvlm_atlas.site.content import Content, Links
from lvlm_atlas.site.neighbours import MOST, neighbours
from lvlm_atlas.site.svg import pipeline, strip
from synthetic import varied

SVG = "{http://www.w3.org/2000/svg}"


def drawn(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)  # noqa: S314  our own


@pytest.mark.parametrize("tall", [False, True])
def test_the_pipeline_links_stages_and_places(odd: lvlm_atlas.KnowledgeBase, odd_site: Path, tall: bool) -> None:
    content = Content(odd)
    picture = drawn(pipeline(content.atlas, Links(content, "index.md").href, tall=tall))
    links = [a.attrib["href"] for a in picture.iter(f"{SVG}a")]
    places = [p for p in content.atlas.terms("position") if getattr(p, "stage", "") != "serving"]
    assert len(links) == len(content.atlas.terms("stage")) + len(places)
    assert all((odd_site / link.partition("#")[0]).is_file() for link in links)


def test_every_drawing_has_a_title_and_a_description(odd: lvlm_atlas.KnowledgeBase) -> None:
    content = Content(odd)
    links, technique = Links(content, "techniques/fastv.md"), odd.technique("fastv")
    for picture in (
        pipeline(content.atlas, links.href, tall=True),
        strip(content.atlas, technique.acts_at, technique.name),
        neighbours(odd, technique, links.href),
    ):
        root = drawn(picture)
        named = {root.attrib["aria-labelledby"], root.attrib["aria-describedby"]}
        assert {child.attrib["id"] for child in root if child.tag in (f"{SVG}title", f"{SVG}desc")} == named
        assert root.attrib["role"] == ("group" if list(root.iter(f"{SVG}a")) else "img")
        assert "\n" not in picture
        assert "style" not in picture


def test_a_neighbour_is_a_link_that_says_how_it_stands(odd: lvlm_atlas.KnowledgeBase) -> None:
    content = Content(odd)
    picture = drawn(neighbours(odd, odd.technique("fastv"), Links(content, "techniques/fastv.md").href))
    (link,) = picture.iter(f"{SVG}a")
    assert link.attrib["href"] == "kivi.html"
    title = link.find(f"{SVG}title")
    assert title is not None
    assert title.text is not None
    assert title.text.startswith("Fast<3V | *x* composes with")


def test_of_many_neighbours_a_few_are_drawn_and_the_rest_is_counted(catalog: lvlm_atlas.KnowledgeBase) -> None:
    kb = varied(catalog.atlas, 110)
    drafting = next(t for t in kb.atlas.techniques.values() if t.acts_at == ("decode-loop",))
    conflicts = len(kb.interactions(drafting.id))
    picture = drawn(neighbours(kb, drafting, lambda kind, id_: id_))
    assert len(list(picture.iter(f"{SVG}a"))) == MOST < conflicts
    assert f"and {conflicts - MOST} more in the table" in "".join(picture.itertext())


def test_a_technique_without_interactions_has_no_drawing(odd: lvlm_atlas.KnowledgeBase) -> None:
    assert neighbours(odd, odd.technique("index"), lambda kind, id_: "") == ""


def test_the_strip_marks_the_places_and_no_others(odd: lvlm_atlas.KnowledgeBase) -> None:
    picture = drawn(strip(odd.atlas, ("llm-layer", "cache"), "X"))
    on = [c for c in picture.iter(f"{SVG}circle") if c.attrib["class"] == "la-on"]
    assert len(on) == 2
    assert len(list(picture.iter(f"{SVG}circle"))) == len(odd.atlas.terms("position"))
