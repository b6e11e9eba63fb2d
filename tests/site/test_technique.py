"""The page of one technique among very many: what it shows of the others stays readable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.graph.edges import COMPUTED
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.planner.predicted import with_predictions
from lvlm_atlas.schema.technique import Interaction, Technique
from lvlm_atlas.site.content import Content
from lvlm_atlas.site.effect_words import in_words
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
    return page.partition("{: #together }")[2].partition("{: #numbers }")[0]


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"\| (?!---|.*\| Technique \|)", line)]


def test_what_is_stated_is_shown_with_its_verdict_and_what_rules_derive_is_folded(
    crowd: lvlm_atlas.KnowledgeBase, together: str
) -> None:
    known = [edge for edge in crowd.interactions(drafting(crowd).id) if edge.evidence not in COMPUTED]
    derived = {edge.other(drafting(crowd).id) for edge in known} - {"made-47"}
    shown, _, folded = together.partition("<details")
    (row,) = rows(shown)
    assert "Stated, if last." in row
    assert re.match(r'\| <span class="la-verdict la-verdict--works">works</span> \| \[made&#45;47\]|', row)
    assert f"<summary>{len(derived)} that follow from a rule</summary>" in folded
    assert len(rows(folded.partition("</details>")[0])) == min(len(derived), SHOWN)


def test_a_neighbour_has_one_row_however_many_edges_join_it(catalog: lvlm_atlas.KnowledgeBase, checkout: Path) -> None:
    content = Content(catalog)
    page = technique_page(content, catalog.technique("fastv"))
    each = [n for name in ("stated", "more_stated", "derived") for n in page.context[name]]
    known = [edge for edge in catalog.interactions("fastv") if edge.evidence not in COMPUTED]
    assert len({n.id for n in each}) == len(each) < len(known)
    assert sum(len(n.edges) for n in each) == len(known)
    assert all(n.verdict == catalog.relation("fastv", n.id).value for n in each)
    assert {n.verdict for n in page.context["stated"]} >= {"breaks", "works"}


def test_the_strongest_predictions_are_shown(crowd: lvlm_atlas.KnowledgeBase, together: str) -> None:
    edges = [edge for edge in crowd.interactions(drafting(crowd).id) if edge.evidence == "predicted"]
    block = together.partition("la-numbers--predicted")[2].partition("</details>")[0]
    strongest = sorted(edges, key=lambda edge: -edge.strength)[:SHOWN]
    assert len(rows(block)) == len(strongest)
    others = [re.search(r"\]\((.*?)\.md\)", row) for row in rows(block)]
    assert {match[1] for match in others if match} == {edge.other(drafting(crowd).id) for edge in strongest}
    assert (len(edges) > SHOWN) == ("more stand in [the JSON" in block)


def test_what_nobody_has_said_is_counted(crowd: lvlm_atlas.KnowledgeBase, together: str) -> None:
    count = len(crowd.query(f"unknown-with({drafting(crowd).id})"))
    assert f"of {count} others nobody has said it" in together


@pytest.mark.parametrize(
    ("id_", "quantity", "words"),
    [
        ("kivi", "kv.bits", "2 bits, in groups of 32, the newest 0 to 127 keys and 128 values exact"),
        ("fastv", "llm.vision-tokens", "× 0.5 from layer 2"),
        ("visionzip", "vision-tokens", None),  # how many frames there are decides
    ],
)
def test_effects_are_said_in_words_where_the_defaults_settle_them(
    catalog: lvlm_atlas.KnowledgeBase, id_: str, quantity: str, words: str | None
) -> None:
    technique = catalog.technique(id_)
    (effect,) = (each for each in technique.effects if each.quantity == quantity)
    assert in_words(effect, technique.parameters) == words


def test_steps_show_their_code_once_also_where_it_is_shared(catalog: lvlm_atlas.KnowledgeBase) -> None:
    steps = technique_page(Content(catalog), catalog.technique("kivi")).context["steps"]
    (shared,) = (snippet for step, snippet, _ in steps if step.code == "quantise")
    assert shared.elsewhere == "src/lvlm_atlas/reference/ops/quantisation.py"
    assert "def</span>" in shared.html
    steps = technique_page(Content(catalog), catalog.technique("visionzip")).context["steps"]
    again = [(number, again) for number, (step, _, again) in enumerate(steps, 1) if step.code == "contextual_tokens"]
    assert again == [(3, None), (4, 3)]


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
