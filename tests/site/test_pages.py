"""What has a page, what the pages say, and how old ids are followed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

import lvlm_atlas
from lvlm_atlas.site.config import configuration, navigation, redirects
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.pages import measures, pages, walls
from lvlm_atlas.site.routes import built, routes

BASES = ["odd", "catalog"]


@pytest.fixture(params=BASES)
def content(request: pytest.FixtureRequest) -> Content:
    return Content(request.getfixturevalue(request.param))


def entries(nav: Any) -> Iterator[str]:
    for item in nav:
        value = next(iter(item.values())) if isinstance(item, dict) else item
        if isinstance(value, str):
            yield value
        else:
            yield from entries(value)


def shown(page: Path) -> str:
    return unescape(page.read_text(encoding="utf-8"))


def test_every_record_has_a_page_and_each_page_stands_once_in_the_navigation(content: Content) -> None:
    made = pages(content)
    paths = [page.path for page in made]
    atlas = content.atlas
    wanted = [("technique", id_) for id_ in atlas.techniques] + [("paper", key) for key in atlas.papers]
    wanted += [("model", id_) for id_ in atlas.models] + [("device", id_) for id_ in atlas.hardware]
    wanted += [(kind, term.id) for kind in ("stage", "family", "bound") for term in atlas.terms(kind)]
    assert {content.routes.path(*thing) for thing in wanted} <= set(paths)
    assert len(paths) == len(set(map(str.casefold, paths)))
    listed = ("papers/", "rules/")  # by their own pages
    single = [path for path in paths if not path.startswith(listed) or path.endswith("/index.md")]
    assert sorted(entries(navigation(content, made))) == sorted(single)


def test_a_renamed_id_is_redirected_and_a_split_one_lets_the_reader_choose(
    odd: lvlm_atlas.KnowledgeBase, odd_site: Path, read: Callable[[Path], Any]
) -> None:
    assert redirects(Content(odd)) == {
        "rules.md": "rules/index.md",
        "techniques/kivi-2bit.md": "techniques/kivi.md",
    }
    assert "url=kivi.html" in (odd_site / "techniques/kivi-2bit.html").read_text(encoding="utf-8")
    assert {"kivi.html", "fastv.html"} <= set(read(odd_site / "techniques/both.html").links)


def test_an_id_that_is_the_name_of_a_list_gets_another_file(odd: lvlm_atlas.KnowledgeBase) -> None:
    assert routes(odd.atlas).path("technique", "index") == "techniques/index_.md"


def test_families_without_techniques_are_shown_as_not_yet_described(odd_site: Path) -> None:
    assert "not yet described" in (odd_site / "matrix.html").read_text(encoding="utf-8")
    assert "has an entry here so far" in (odd_site / "families/sparse-attention/index.html").read_text(encoding="utf-8")


def test_a_pair_that_nobody_settled_is_counted_as_not_known(odd_site: Path) -> None:
    assert "known to conflict with 0; of 1 others nobody has said" in shown(odd_site / "techniques/fastv.html")


def test_reported_and_measured_numbers_stand_in_two_blocks(odd_site: Path) -> None:
    html = shown(odd_site / "techniques/fastv.html")
    reported = html[html.index("la-numbers--reported") : html.index("la-numbers--measured")]
    measured = html[html.index("la-numbers--measured") :]
    assert "45 % less" in reported
    assert "Not measured here" in reported
    assert "40,960" in measured
    assert "40,960" not in reported


def test_results_stand_by_benchmark_with_their_share_of_the_unmodified_model(odd_site: Path) -> None:
    html = shown(odd_site / "results.html")
    gqa = html[html.index("id=benchmark-gqa") : html.index("id=metric-ttft")]
    for part in ("12.5 %", "60.5 %", "62.5 %", "96.8 %", "layer=3", "accuracy, higher is better".capitalize()):
        assert part in gqa, part
    assert "55 %" in html[html.index("id=metric-ttft") :]  # 45 % less
    assert "href=../results.html#benchmark-gqa" in (odd_site / "techniques/fastv.html").read_text(encoding="utf-8")


def test_measures_of_many_results_are_folded_and_hold_all_of_them(
    site: Path, catalog: lvlm_atlas.KnowledgeBase
) -> None:
    html = (site / "results.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r"<h2 id=(\w+-[\w.-]+)>(.*?)(?=<h2|</article>)", html, re.DOTALL))
    for kind, term, groups in measures(Content(catalog)):
        section, numbers = sections[f"{kind}-{term.id}"], sum(map(len, groups))
        assert section.count("<tr>") == numbers + len(groups)
        assert (f"<summary>{numbers} numbers of {len(groups)} model" in section) == (numbers > 16), term.id


def test_every_page_names_the_data_and_the_survey(odd: lvlm_atlas.KnowledgeBase, odd_site: Path) -> None:
    edition, survey = odd.edition, Content(odd).data.survey
    for page in odd_site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        if "Redirecting" not in html:
            assert edition.digest in html, page
            assert f"arXiv {survey.arxiv}" in html, page


def test_the_bottlenecks_follow_from_what_entries_relieve(odd: lvlm_atlas.KnowledgeBase) -> None:
    found = {(stage.id, bound.id): [t.id for t in techniques] for stage, bound, techniques in walls(Content(odd))}
    assert found["prefilling", "compute"] == ["fastv"]
    assert found["decoding", "memory-capacity"] == ["kivi", "index"]
    assert found["encoding", "compute"] == []


def test_only_two_agreed_plugins_and_no_overrides_are_used(odd: lvlm_atlas.KnowledgeBase, checkout: Path) -> None:
    content = Content(odd)
    config = yaml.safe_load(configuration(content, pages(content), checkout / "site/mkdocs.yml", "../site"))
    assert {next(iter(p)) if isinstance(p, dict) else p for p in config["plugins"]} == {"tags", "redirects"}
    assert "hooks" not in config
    assert "custom_dir" not in config["theme"]
    assert config["theme"]["font"] is False


def test_html_files_lie_where_routes_say(odd: lvlm_atlas.KnowledgeBase, odd_site: Path) -> None:
    content = Content(odd)
    assert all((odd_site / built(page.path)).is_file() for page in pages(content))
