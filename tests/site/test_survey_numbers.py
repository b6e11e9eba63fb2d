"""The page of the survey's numbers: every claim with its verdict, its assumption and its figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import lvlm_atlas
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.markup import bare
from lvlm_atlas.site.survey import survey_page
from lvlm_atlas.survey import survey_numbers
from lvlm_atlas.survey.claim import Claim

PAGE = "guide/survey-numbers.html"


@pytest.fixture(scope="module")
def claims(catalog: lvlm_atlas.KnowledgeBase) -> tuple[Claim, ...]:
    return survey_numbers(catalog.atlas)


@pytest.fixture(scope="module")
def words(site: Path) -> str:
    """The page as read."""
    html = re.sub(r"<sub>(.*?)</sub>", r"_\1", (site / PAGE).read_text(encoding="utf-8"))
    html = re.sub(r"<td\b", " <td", html)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", html)))


def test_every_claim_stands_there_with_what_is_printed_what_comes_out_and_why(
    claims: tuple[Claim, ...], words: str
) -> None:
    for claim in claims:
        for said in (claim.printed, claim.ours, claim.rests_on, *claim.arithmetic):
            assert bare(said) in words, claim.number


def test_every_figure_stands_there(claims: tuple[Claim, ...], words: str) -> None:
    for claim in claims:
        for table in claim.tables:
            for row in table.texts:
                assert " ".join(row) in words, (claim.number, row)


def test_the_table_leads_to_each_claim_and_shows_its_verdict(
    claims: tuple[Claim, ...], site: Path, read: Callable[[Path], Any]
) -> None:
    page = read(site / PAGE)
    for claim in claims:
        assert f"#claim-{claim.number}" in page.links
        assert f"claim-{claim.number}" in page.ids
        # Once in the table of all claims, once in its own section.
        badge = f'la-badge--{claim.verdict.replace(" ", "-")}">{claim.verdict}<'
        assert page.text.count(badge) == 2 * sum(each.verdict == claim.verdict for each in claims)


def test_what_the_engine_gives_is_marked_as_predicted(words: str) -> None:
    assert "predicted Ours is the engine's bound" in words


def test_an_atlas_without_these_models_has_no_such_page(odd: lvlm_atlas.KnowledgeBase) -> None:
    assert not list(survey_page(Content(odd)))
