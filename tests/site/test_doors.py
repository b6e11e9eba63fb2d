"""The files that lead from the site to other tools: references and feeds."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

import lvlm_atlas
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.doors import doors
from lvlm_atlas.site.published import Published

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture(scope="module")
def files(odd: lvlm_atlas.KnowledgeBase) -> dict[str, str]:
    return dict(doors(Content(odd, Published("https://example.org/a/"))))


def test_every_work_is_in_every_format(odd: lvlm_atlas.KnowledgeBase, files: dict[str, str]) -> None:
    papers = odd.atlas.papers
    assert {item["id"] for item in json.loads(files["references.csl.json"])} == set(papers)
    records = files["references.ris"].split("ER  - \n")
    assert {record.partition("ID  - ")[2].partition("\n")[0] for record in records} - {""} == set(papers)
    assert all(line[2:6] == "  - " for line in files["references.ris"].splitlines() if line)
    assert all(f"{{{key}," in files["references.bib"] for key in papers)


def test_feeds_hold_the_last_changed_first_under_whole_addresses(files: dict[str, str]) -> None:
    feed = ElementTree.fromstring(files["feed.xml"])  # noqa: S314  our own
    entries = feed.findall(f"{ATOM}entry")
    days = [entry.findtext(f"{ATOM}updated") or "" for entry in entries]
    assert days == sorted(days, reverse=True)
    assert days[0] == feed.findtext(f"{ATOM}updated") == "2026-11-22T00:00:00Z"
    first = entries[0].find(f"{ATOM}link")
    assert first is not None
    assert first.get("href") == "https://example.org/a/techniques/fastv.html"
    assert entries[0].findtext(f"{ATOM}title") == "Fast<3V | *x*"
    items = json.loads(files["feed.json"])["items"]
    assert [item["title"] for item in items] == [entry.findtext(f"{ATOM}title") for entry in entries]


def test_without_an_address_there_is_no_feed(odd: lvlm_atlas.KnowledgeBase) -> None:
    assert {path for path, _ in doors(Content(odd))} == {"references.bib", "references.ris", "references.csl.json"}
