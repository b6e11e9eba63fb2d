"""What the pages of families, stages and bottlenecks say to who must choose."""

from __future__ import annotations

from itertools import pairwise

import pytest

import lvlm_atlas
from lvlm_atlas.site.choices import choices
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.effect import effect_of
from lvlm_atlas.site.glossary import by_letter


@pytest.fixture(scope="module")
def content(catalog: lvlm_atlas.KnowledgeBase) -> Content:
    return Content(catalog)


@pytest.mark.parametrize(("stage", "bound", "at"), [("prefilling", None, 0), ("decoding", None, 1),
                                                    ("decoding", "memory-capacity", 2)])  # fmt: skip
def test_what_gains_most_at_the_stage_comes_first(content: Content, stage: str, bound: str | None, at: int) -> None:
    rows = choices(content, content.of_stage(stage), stage=stage, bound=bound).rows
    usual = [row for row in rows if row.case is None]
    assert all(one.ratios[at] + 1e-3 >= two.ratios[at] for one, two in pairwise(usual))
    assert list(rows[: len(usual)]) == usual  # gains in another request are not ranked among them
    assert {row.technique.id for row in rows} == {t.id for t in content.of_stage(stage)}


def test_a_gain_is_what_the_page_of_the_technique_says(content: Content) -> None:
    technique = content.atlas.techniques["fastv"]
    (row,) = choices(content, [technique], stage="prefilling").rows
    said = {name: gain for name, _, _, gain in effect_of(content, technique).rows}
    assert row.gains == (said["Time to first token"], said["Time per output token"], said["Cache after prefilling"])


def test_what_all_share_is_said_once_and_what_differs_in_columns(content: Content) -> None:
    found = choices(content, content.of_family("token-compression.attention-guided"), stage="prefilling")
    shared, apart = {trait.name for trait, _ in found.shared}, {trait.name for trait in found.apart}
    assert not shared & apart
    assert shared | apart == {"Saves by", "Decides by", "Acts at", "Training"}
    one = choices(content, [content.atlas.techniques["kivi"]])
    assert one.shared == ()


def test_the_glossary_holds_every_term_once_under_its_letter(content: Content) -> None:
    letters = by_letter(content)
    held = [(kind, term.id) for terms in letters.values() for kind, term in terms]
    assert sorted(held) == sorted(
        (kind, t.id) for kind in content.atlas.vocabularies for t in content.atlas.terms(kind)
    )
    assert ("mechanism", "token-pruning") in [(kind, term.id) for kind, term in letters["T"]]
    assert next(iter(letters)) == "A"
