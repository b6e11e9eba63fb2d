"""Which smoke checks an entry's effects excuse: made-up references that fail one, with and without the effect."""

from __future__ import annotations

import json
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
VISION = {"quantity": "llm.vision-tokens", "from_layer": 1}
HONEST = {
    "Reverses": ({**VISION, "set": "N_v", "order": "new"}, "kept-in-order"),
    "DropsText": ({"quantity": "text-tokens", "remove": 1}, "text-is-alive"),
    "SitsOut": ({**VISION, "scale": 0.5, "to_layer": 2}, "never-grows"),
    "CachesBackwards": ({"quantity": "kv.tokens", "set": "N", "order": "new"}, "kept-in-order"),
}
"""For each reference the effect that says what it does, and the check that the effect excuses."""


@pytest.fixture(autouse=True)
def references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def entry(*effects: dict[str, Any], **changes: Any) -> Technique:
    """FastV's entry with other effects."""
    raw = ATLAS.technique("fastv").model_dump(mode="json", by_alias=True, exclude_none=True)
    return Technique.model_validate_json(json.dumps({**raw, "effects": effects, **changes}))


def smoked(name: str, effect: dict[str, Any]) -> SmokeResult:
    technique = entry(effect).model_copy(
        update={"reference": f"made_up:{name}", "trials": ({},), "neutral": None, "no_neutral": "It is made up."}
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
    ("name", "other"), [("Reverses", "DropsText"), ("DropsText", "SitsOut"), ("SitsOut", "CachesBackwards")]
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
