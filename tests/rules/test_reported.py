"""What the rules of reported numbers tell beyond their examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import ALPHA, MODEL, sound, write


def told(tmp_path: Path, **changes: Any) -> list[str]:
    """The faults of the sample when its first experiment is changed."""
    files = sound()
    experiment = files[ALPHA]["reported"][0]
    experiment.update(changes)
    for key in [key for key, value in experiment.items() if value is None]:
        del experiment[key]
    return [str(fault) for fault in check(write(files, tmp_path))]


def score(**fields: Any) -> dict[str, Any]:
    return {"benchmark": "quiz", "value": 60, **fields}


def test_a_setting_beyond_the_range_and_one_that_is_no_parameter_are_told(tmp_path: Path) -> None:
    faults = told(tmp_path, setting={"keep_ratio": 1.5, "layers": 3})
    assert len(faults) == 2
    assert "unknown-parameter" in faults[1] and "did you mean 'layer'" in faults[1]  # noqa: PT018
    assert "illegal-setting: keep_ratio: 1.5 lies outside (0, 1]" in faults[0]


@pytest.mark.parametrize("unit", ["%", "1", "×", "% less", "% of baseline"])
def test_a_score_may_be_printed_in_its_unit_or_relative(tmp_path: Path, unit: str) -> None:
    assert told(tmp_path, results=[score(unit=unit)]) == []


def test_a_unit_of_another_dimension_is_told_with_those_that_fit(tmp_path: Path) -> None:
    (fault,) = told(tmp_path, results=[{"metric": "ttft", "value": 1, "unit": "GB"}])
    assert "ttft is not printed in 'GB'; give one of s, ms, ×" in fault


def test_a_relative_number_may_pass_the_scale_and_a_baseline_may_not(tmp_path: Path) -> None:
    assert told(tmp_path / "a", results=[score(value=130, unit="% of baseline")]) == []
    (fault,) = told(tmp_path / "b", results=[score(baseline=620)])
    assert "620 is more than 100" in fault


def test_the_two_ends_of_a_range_are_no_duplicates(tmp_path: Path) -> None:
    ends = [score(value=50, qualifier="at-least"), score(value=60, qualifier="up-to")]
    assert told(tmp_path, results=ends) == []


def test_an_unknown_benchmark_is_told_once(tmp_path: Path) -> None:
    (fault,) = told(tmp_path, results=[score(benchmark="quizz")])
    assert "unknown-term: benchmark 'quizz' is not in the taxonomy; did you mean 'quiz'?" in fault


def test_a_model_whose_file_is_broken_is_not_unknown(tmp_path: Path) -> None:
    files = sound()
    files[MODEL] = "id: ["
    assert [fault.rule for fault in check(write(files, tmp_path))] == ["yaml-syntax"]


@pytest.mark.parametrize("name", ["Gamma", "GAMMA-chat", "doe/gamma-chat"])
def test_a_model_of_the_catalog_is_named_by_its_id(tmp_path: Path, name: str) -> None:
    (fault,) = told(tmp_path, model=None, model_name=name)
    assert "model-has-an-id" in fault
    assert "write `model: gamma`" in fault
