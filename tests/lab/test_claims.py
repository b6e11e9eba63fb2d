"""Which smoke checks an entry's effects excuse: made-up references that fail one, with and without the effect."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas import load
from lvlm_atlas.lab.checks import CHECKS
from lvlm_atlas.lab.claims import spared
from lvlm_atlas.lab.smoke import WORKLOAD, jobs_for
from lvlm_atlas.lab.trials import carry_out
from lvlm_atlas.schema.measurement import SmokeResult
from lvlm_atlas.schema.technique import Technique

ATLAS = load(Path(__file__).resolve().parents[2])
REFERENCES = """
    from dataclasses import replace
    import torch
    from lvlm_atlas.reference.lvlm import Technique

    class AtLayers(Technique):
        acts_at = ("llm-layer",)
        def llm_layer(self, at):
            return self.change(at.layer, at.sequence)

    class Reverses(AtLayers):
        "Turns the vision tokens round before layer 2."
        def change(self, layer, sequence):
            if layer != 2:
                return sequence
            place = torch.arange(sequence.length)
            vision = sequence.vision_places()[0]
            place[vision] = vision.flip(0)
            return sequence.keep(place[None])

    class DropsText(AtLayers):
        "Drops the first token, a word, before layer 0."
        def change(self, layer, sequence):
            return sequence.keep(torch.arange(1, sequence.length)[None]) if layer == 0 else sequence

    class SitsOut(AtLayers):
        "Every second vision token sits layer 1 out and returns unchanged."
        def begin(self, run):
            return SitsOut()
        def change(self, layer, sequence):
            if layer == 1:
                self.whole = sequence
                vision = sequence.vision_places()[0]
                away = torch.zeros(sequence.length, dtype=torch.bool).index_fill(0, vision[::2], True)
                self.stays = (~away).nonzero()[:, 0]
                return sequence.keep(self.stays[None])
            if layer != 2:
                return sequence
            hidden = self.whole.hidden_BND.index_copy(1, self.stays, sequence.hidden_BND)
            return replace(self.whole, hidden_BND=hidden, attention=None)

    class Unsorted(Technique):
        "Caches each layer's entries back to front."
        acts_at = ("cache-tokens",)
        def compress_cache(self, at):
            entries = at.entries
            back = torch.arange(entries.index_BGS.shape[2] - 1, -1, -1).expand_as(entries.index_BGS)
            return entries.keep(back)
"""
VISION = {"quantity": "llm.vision-tokens", "from_layer": 1}
HONEST = {
    "Reverses": ({**VISION, "set": "N_v", "order": "new"}, "kept-in-order"),
    "DropsText": ({"quantity": "text-tokens", "remove": 1}, "text-is-alive"),
    "SitsOut": ({**VISION, "scale": 0.5, "to_layer": 2}, "never-grows"),
    "Unsorted": ({"quantity": "kv.tokens", "set": "N", "order": "new"}, "kept-in-order"),
}
"""For each reference the effect that says what it does, and the check that the effect excuses."""


@pytest.fixture(autouse=True)
def references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_orders.py").write_text(textwrap.dedent(REFERENCES))
    monkeypatch.syspath_prepend(tmp_path)


def entry(*effects: dict[str, Any], **changes: Any) -> Technique:
    """FastV's entry with other effects."""
    raw = ATLAS.technique("fastv").model_dump(mode="json", by_alias=True, exclude_none=True)
    return Technique.model_validate_json(json.dumps({**raw, "effects": effects, **changes}))


def smoked(name: str, effect: dict[str, Any]) -> SmokeResult:
    technique = entry(effect).model_copy(
        update={"reference": f"made_up_orders:{name}", "trials": ({},), "neutral": None, "no_neutral": "It is made up."}
    )
    (result,) = carry_out(jobs_for([technique], WORKLOAD, "cpu")[0]).results
    return result


@pytest.mark.parametrize("name", HONEST)
def test_a_technique_that_says_what_it_does_passes_and_is_told_what_was_skipped(name: str) -> None:
    effect, check = HONEST[name]
    result = smoked(name, effect)
    assert result.failed == {}
    assert set(result.skipped) >= {check, "neutral-is-identity"}
    assert f"`{effect['quantity']}`" in result.skipped[check]
    assert {*result.passed, *result.skipped} == {"runs", *CHECKS}


@pytest.mark.parametrize("name", HONEST)
def test_one_that_does_not_say_so_fails_at_that_check(name: str) -> None:
    result = smoked(name, {"quantity": "vision-tokens", "scale": 0.5})
    assert set(result.failed) == {HONEST[name][1]}


@pytest.mark.parametrize(
    ("name", "other"), [("Reverses", "DropsText"), ("DropsText", "SitsOut"), ("SitsOut", "Unsorted")]
)
def test_the_excuse_of_another_check_does_not_help(name: str, other: str) -> None:
    assert set(smoked(name, HONEST[other][0]).failed) == {HONEST[name][1]}


def test_a_removal_that_ends_at_a_layer_excuses_nothing_for_the_removed_stay_away() -> None:
    assert spared(entry({**VISION, "remove": 3, "to_layer": 2})) == {}
    assert set(spared(entry({**VISION, "cap": 3, "to_layer": 2}))) == {"never-grows"}


def test_the_excused_checks_are_checks_and_the_catalog_excuses_none_without_an_effect_that_says_so() -> None:
    every = entry(*(effect for effect, _ in HONEST.values()), neutral=None, no_neutral="It is made up.")
    assert set(spared(every)) <= CHECKS.keys()
    assert set(spared(every)) == {"neutral-is-identity", "kept-in-order", "text-is-alive", "never-grows"}
    assert spared(ATLAS.technique("fastv")) == {}
