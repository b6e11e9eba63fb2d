"""The page of one technique among very many: what it shows of the others stays readable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.predicted import with_predictions
from lvlm_atlas.schema.technique import Interaction, Technique
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.render import environment, render
from lvlm_atlas.site.technique import SHOWN, technique_page
from lvlm_atlas.site.words import within_a_sentence
from synthetic import base_of, synthetic

SAID = {"kind": "composes-with", "reason": "Stated, if last.", "evidence": "reasoned",
        "source": {"paper": "chen2024fastv", "place": "p. 1"}}  # fmt: skip


@pytest.fixture(scope="module")
def crowd(catalog: lvlm_atlas.KnowledgeBase) -> lvlm_atlas.KnowledgeBase:
    """A dozen made-up techniques of each of four shapes, with predictions; a drafting one composes with the last."""
    shapes, base = ("drafting", "frames", "layer", "before-llm"), catalog.atlas.techniques["fastv"]
    made = [synthetic(base, f"made-{i:02}", shapes[i % 4], 0.2 + 0.01 * i, i) for i in range(48)]
    stated = Interaction.model_validate_json(json.dumps({**SAID, "with": made[-1].id}))
    made[0] = made[0].model_copy(update={"interactions": (stated,)})
    return with_predictions(Planner(kb=base_of(catalog.atlas, made)))


def drafting(kb: lvlm_atlas.KnowledgeBase) -> Technique:
    return next(t for t in kb.atlas.techniques.values() if t.acts_at == ("decode-loop",))


@pytest.fixture(scope="module")
def together(crowd: lvlm_atlas.KnowledgeBase, checkout: Path) -> str:
    """The Markdown of the section on other techniques."""
    content = Content(crowd)
    page = render(content, technique_page(content, drafting(crowd)), environment(checkout / "site"))
    return page.partition("{: #together }")[2].partition("{: #reported }")[0]


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"\| (?!---|.*\| Technique \|)", line)]


def test_the_most_informative_interactions_come_first_and_the_rest_is_folded(
    crowd: lvlm_atlas.KnowledgeBase, together: str
) -> None:
    known = sum(edge.evidence != "predicted" for edge in crowd.interactions(drafting(crowd).id))
    shown, _, folded = together.partition("la-numbers--predicted")[0].partition("<details")
    assert len(rows(shown)) == SHOWN < known
    assert "Stated, if last." in rows(shown)[0]
    assert f"<summary>{known - SHOWN} more</summary>" in folded
    assert len(rows(folded)) == known - SHOWN


def test_the_strongest_predictions_are_shown(crowd: lvlm_atlas.KnowledgeBase, together: str) -> None:
    edges = [edge for edge in crowd.interactions(drafting(crowd).id) if edge.evidence == "predicted"]
    block = together.partition("la-numbers--predicted")[2].partition("la-verdicts")[0]
    strongest = sorted(edges, key=lambda edge: -edge.strength)[:SHOWN]
    assert len(rows(block)) == len(strongest)
    others = [re.search(r"\]\((.*?)\.md\)", row) for row in rows(block)]
    assert {match[1] for match in others if match} == {edge.other(drafting(crowd).id) for edge in strongest}
    assert (len(edges) > SHOWN) == ("more stand in [the JSON" in block)


def test_a_verdict_lists_a_few_and_counts_the_others(crowd: lvlm_atlas.KnowledgeBase, together: str) -> None:
    unknown = together.partition("nobody has said or measured it")[2].partition("\n## ")[0]
    count = len(crowd.query(f"unknown-with({drafting(crowd).id})"))
    assert unknown.count(".md)") == SHOWN
    assert f"and {count - SHOWN} more in [the JSON]" in unknown


def test_what_follows_from_its_place_is_said_once(together: str) -> None:
    assert "is fed by whatever reduces frames or tokens before it" in together
    assert together.count("cascades-to(") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("States of the LLM", "states of the LLM"),
        ("Full attention map", "full attention map"),
        ("[CLS] attention", "[CLS] attention"),
    ],
)
def test_abbreviations_keep_their_capitals_within_a_sentence(name: str, said: str) -> None:
    assert within_a_sentence(name) == said
