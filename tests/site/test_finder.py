"""What the search in the page is given; how it ranks is tested in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lvlm_atlas
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.finder import find_data
from lvlm_atlas.site.pages import pages

MOST_BYTE = 3_000_000


def rows_of(kb: lvlm_atlas.KnowledgeBase) -> list[list]:
    content = Content(kb)
    made = pages(content)
    texts = {page.path: "---\n---\n# Head {: #x }\n\nBody [a](b.md) <b>bold</b>." for page in made}
    text = find_data(content, made, texts)
    return json.loads(text.removeprefix("window.lvlmAtlasFind=").removesuffix(";\n"))


@pytest.fixture(scope="module")
def rows(odd: lvlm_atlas.KnowledgeBase) -> list[list]:
    return rows_of(odd)


def test_techniques_are_found_by_id_alias_former_id_and_the_title_of_their_work(rows: list[list]) -> None:
    by_path = {row[0]: row for row in rows}
    names = by_path["techniques/fastv.html"][3]
    assert {"fastv", "fast-v", "both"} <= set(names)
    assert any(name.startswith("An Image is Worth 1/2 Tokens") for name in names)
    assert "kivi-2bit" in by_path["techniques/kivi.html"][3]
    assert "token dropping" in by_path["techniques/fastv.html"][5]  # another word for its mechanism


def test_terms_lead_to_the_glossary_and_guides_are_searched_by_their_words(rows: list[list]) -> None:
    by_path = {row[0]: row for row in rows}
    assert by_path["glossary.html#mechanism-token-pruning"][2] == "word"
    assert by_path["guide/plan.html"][5] == "Head Head Body a bold ."
    assert by_path["guide/plan.html"][2] == "guide"


def test_every_address_is_a_page_of_the_site(rows: list[list], odd_site: Path, read: Callable[[Path], Any]) -> None:
    assert all((odd_site / row[0].partition("#")[0]).is_file() for row in rows)
    ids = {path: read(odd_site / path).ids for path in {row[0].partition("#")[0] for row in rows}}
    assert all(anchor in ids[path] for path, _, anchor in (row[0].partition("#") for row in rows) if anchor)


def test_what_lists_name_and_nobody_entered_is_found_as_not_covered(catalog: lvlm_atlas.KnowledgeBase) -> None:
    rows = rows_of(catalog)
    missing = {row.work.technique for _, rows in Content(catalog).coverage for row in rows if row.state == "missing"}
    assert {row[3][0] for row in rows if row[2] == "not covered"} == missing
    assert len(json.dumps(rows)) < MOST_BYTE
