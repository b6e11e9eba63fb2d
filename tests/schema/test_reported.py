"""An experiment names one model, counts its tokens once, and each of its numbers is of one thing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from lvlm_atlas.schema.reported import RELATIVE, SAME_DIMENSION, Reported, units_of

SCORE = {"benchmark": "gqa", "value": 60.4}
SOURCE = {"paper": "doe2025sample", "place": "table 1"}


def experiment(result: dict[str, Any] | None = None, **fields: Any) -> Reported:
    data = {"model": "llava-1.5-7b", "results": [result or SCORE], "source": SOURCE, **fields}
    return Reported.model_validate_json(json.dumps({key: value for key, value in data.items() if value is not None}))


@pytest.mark.parametrize(
    ("result", "fields", "told"),
    [
        ({"value": 1}, {}, "neither `benchmark` nor `metric`; name the one"),
        ({"benchmark": "gqa", "metric": "ttft", "value": 1}, {}, "both `benchmark` and `metric`"),
        ({**SCORE, "unit": "×", "baseline": 2}, {}, "is relative (×) and has a `baseline` too; keep one"),
        (SCORE, {"model": None}, "neither `model` nor `model_name`; give the catalog's id"),
        (SCORE, {"model_name": "LLaVA"}, "both `model` and `model_name`"),
        (SCORE, {"tokens_kept": 64, "share_kept": 0.1}, "both `tokens_kept` and `share_kept`"),
        (SCORE, {"tokens_full": 576}, "`tokens_full` without `tokens_kept`"),
        (SCORE, {"tokens_kept": 577, "tokens_full": 576}, "keeps 577 of 576 tokens"),
        (SCORE, {"results": []}, "at least 1 item"),
        (SCORE, {"claim": "It is good."}, "Extra inputs"),
    ],
)
def test_what_contradicts_itself_is_refused_with_a_repair(
    result: dict[str, Any], fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError) as error:
        experiment(result, **fields)
    assert told in str(error.value)


def test_what_a_source_does_not_say_may_be_left_out() -> None:
    assert experiment().model_given == "llava-1.5-7b"
    assert experiment(model=None, model_name="LLaVA family").model_given == "LLaVA family"
    assert experiment().setting == {}


def test_a_whole_number_is_a_number_and_infinity_is_none() -> None:
    assert experiment({**SCORE, "value": 60}).results[0].value == 60
    with pytest.raises(ValidationError):
        Reported.model_validate_json(
            '{"model": "m", "results": [{"metric": "ttft", "value": 1e999}], "source": ' + json.dumps(SOURCE) + "}"
        )


def test_units_of_one_dimension_are_alternatives_and_no_unit_is_in_two() -> None:
    assert "ms" in units_of("s")
    assert units_of("USD/request") == ("USD/request",)
    units = [unit for units in SAME_DIMENSION for unit in units]
    assert len(set(units)) == len(units)
    assert not set(units) & set(RELATIVE)
