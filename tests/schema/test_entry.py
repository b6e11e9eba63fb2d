"""What an entry may say of its neutral setting and of other places, beyond the shape of its fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from lvlm_atlas.rules.sample import ALPHA, SYSTEM, sound
from lvlm_atlas.schema.elsewhere import Place
from lvlm_atlas.schema.system import System
from lvlm_atlas.schema.technique import Technique


def entry(**changes: Any) -> str:
    data = {**sound()[ALPHA], "status": "implemented", "reference": "some.where:Alpha", **changes}
    return json.dumps({key: value for key, value in data.items() if value is not None})


def test_a_technique_without_a_neutral_setting_says_why() -> None:
    technique = Technique.model_validate_json(entry(neutral=None, no_neutral="It replaces the adapter."))
    assert (technique.neutral, technique.no_neutral) == (None, "It replaces the adapter.")
    with pytest.raises(ValidationError, match="is implemented but lacks `neutral`"):
        Technique.model_validate_json(entry(neutral=None))
    with pytest.raises(ValidationError, match="has both `neutral` and `no_neutral`"):
        Technique.model_validate_json(entry(no_neutral="It replaces the adapter."))


@pytest.mark.parametrize("reference", ["module", "module:", ":Class", "my-package:Class", "a..b:C", "a:B.c", "a b:C"])
def test_a_reference_is_a_module_and_a_class(reference: str) -> None:
    with pytest.raises(ValidationError, match="reference"):
        Technique.model_validate_json(entry(reference=reference))


def test_another_place_of_the_survey_names_a_family_or_a_section() -> None:
    assert Place(section="D.1").section == "D.1"
    with pytest.raises(ValidationError, match="names no place"):
        Place(note="Somewhere.")


def system(**changes: Any) -> str:
    data = {**sound()[SYSTEM], **changes}
    return json.dumps({key: value for key, value in data.items() if value is not None})


def test_a_serving_system_is_filed_and_a_feature_is_not() -> None:
    assert System.model_validate_json(system(kind="engine-feature", family=None)).family is None
    for wrong in ({"family": None}, {"kind": "engine-feature"}):
        with pytest.raises(ValidationError, match="a serving-system has a `family`, an engine-feature has none"):
            System.model_validate_json(system(**wrong))


def test_code_that_is_not_released_has_no_repository() -> None:
    with pytest.raises(ValidationError, match="names `upstream` code and says `code: none`"):
        System.model_validate_json(system(code="none"))


def test_bytes_are_a_sound_formula() -> None:
    (transfer,) = sound()[SYSTEM]["communication"]
    with pytest.raises(ValidationError, match="byte"):
        System.model_validate_json(system(communication=[{**transfer, "byte": "2 * ("}]))
