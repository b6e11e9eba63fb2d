"""Pages of runtimes: every one is listed, says what it adds and from where, and stands beside published times."""

from __future__ import annotations

import re

import pytest

from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.site.build import source_of
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.markup import plain
from lvlm_atlas.site.render import environment, render
from lvlm_atlas.site.runtimes import runtime_pages


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The pages as Markdown, by path."""
    content = Content(Planner(data_root()).kb)
    templates = environment(source_of(data_root()))
    return {page.path: render(content, page, templates) for page in runtime_pages(content)}


def test_every_runtime_is_listed_and_has_a_page(pages: dict[str, str]) -> None:
    atlas = Planner().atlas
    assert set(pages) == {"runtimes/index.md", *(f"runtimes/{id_}.md" for id_ in atlas.runtimes)}
    for record in atlas.runtimes.values():
        assert f"[{record.name}]({record.id}.md)" in pages["runtimes/index.md"]


def test_a_page_has_each_published_time_beside_what_is_predicted(pages: dict[str, str]) -> None:
    page = pages["runtimes/tensorrt-edge-llm.md"]
    points = Planner().atlas.timings["edge-llm-orin"].points
    rows = re.findall(r"^\| qwen.*\|$", page, re.MULTILINE)
    assert len(rows) == len(points)
    assert all(len(row.split(" | ")) == 6 for row in rows)


def test_a_page_says_whose_times_stand_in(pages: dict[str, str]) -> None:
    assert "Its times are those of [SGLang](sglang.md)" in pages["runtimes/vllm.md"]
    assert "tokens a pass" in pages["runtimes/sglang.md"]
    assert "tokens a pass" not in pages["runtimes/vllm.md"]


def test_every_source_of_a_number_is_on_its_page(pages: dict[str, str]) -> None:
    for record in Planner().atlas.runtimes.values():
        for field in record.sources:
            assert str(plain(field)) in pages[f"runtimes/{record.id}.md"], (record.id, field)
