"""Settings that verification draws: few, legal, and drawn again where the reference refuses them."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lvlm_atlas import load
from lvlm_atlas.lab.conformance import job_for, report
from lvlm_atlas.lab.observation import carry_out
from lvlm_atlas.lab.settings import ON_DEVICE, RUNS, SHAPES, SPARES, authored, generated, shapes_for
from lvlm_atlas.schema.technique import Technique

ATLAS = load(Path(__file__).resolve().parents[2])
IMPLEMENTED = [technique for technique in ATLAS.atlas.techniques.values() if technique.reference]
LISTS = {
    "layers": {"type": "ints", "default": [8, 16, 24], "range": "[1, inf)", "order": "rising", "doc": "Where."},
    "ratios": {"type": "floats", "default": [0.5, 0.25, 0.125], "range": "(0, 1]", "doc": "What is kept there."},
}
EFFECT = {"quantity": "llm.vision-tokens", "at_least": 0, "at_most": "N_v", "from_layer": "at(layers, 0)"}


@pytest.fixture(autouse=True)
def references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


def made_up(reference: str, **changes: Any) -> Technique:
    raw = ATLAS.technique("fastv").model_dump(mode="json", by_alias=True, exclude_none=True)
    entry = {
        **raw,
        "overheads": [],
        "neutral": None,
        "no_neutral": "It is made up.",
        "reference": f"made_up:{reference}",
    }
    return Technique.model_validate_json(json.dumps({**entry, **changes}))


def stages() -> Technique:
    """Lists whose lengths must agree, with defaults for a model of 32 layers; the tiny ones have 3 and 4."""
    trials = [{"layers": [1, 2], "ratios": [0.5, 0.25]}, {"layers": [2], "ratios": [0.125]}]
    return made_up("Stages", parameters=LISTS, effects=[EFFECT], trials=trials)


@pytest.mark.parametrize("technique", [*IMPLEMENTED, stages()], ids=lambda technique: technique.id)
def test_a_technique_has_a_bounded_number_of_runs_and_of_draws(technique: Technique) -> None:
    plans = job_for(ATLAS.atlas, technique, "float32", "cpu").plans
    assert len(plans) <= RUNS
    assert all(len(plan.spares) <= SPARES for plan in plans)
    drawn = [setting for plan in plans for settings in (plan.settings, *plan.spares) for setting in settings]
    once = [setting for setting in drawn if setting not in authored(technique)]
    assert all(once.count(setting) == 1 for setting in once)


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=lambda technique: technique.id)
def test_every_parameter_is_moved_alone(technique: Technique) -> None:
    base = technique.trials[0]
    first = [setting for setting, *_ in generated(technique)]
    moved = {
        name for setting in first for name in setting
        if all(setting.get(other) == base.get(other) for other in setting if other != name)
    }  # fmt: skip
    assert moved == technique.parameters.keys()


def test_every_authored_setting_runs_on_every_model_and_the_first_on_every_request() -> None:
    presets = {shape.preset for shape in SHAPES}
    assert shapes_for(0) == (*SHAPES, *ON_DEVICE)
    assert all({shape.preset for shape in shapes_for(number)} == presets for number in range(6))
    assert all(sum(shape.on_device for shape in shapes_for(number)) == 1 for number in range(1, 6))
    assert {shape for number in range(1, 20) for shape in shapes_for(number)} == {*SHAPES, *ON_DEVICE}


def test_lists_are_drawn_from_what_the_entry_names_so_that_most_settings_run() -> None:
    answer = carry_out(job_for(ATLAS.atlas, stages(), "float32", "cpu"))
    found = report(answer)
    assert found.faults == ()
    assert found.holds
    plans = [plan for plan in answer.job.plans if plan.settings[0] not in authored(stages())]
    ran = [each for each in answer.outcomes if each.rows and each.plan.settings[0] not in authored(stages())]
    assert len(plans) >= 10
    assert len(ran) >= 0.8 * len(plans)


def test_a_refused_draw_is_drawn_again_and_counted() -> None:
    technique = stages()
    job = job_for(ATLAS.atlas, technique, "float32", "cpu")
    on_three_layers = SHAPES[1]
    (plan, *_) = [plan for plan in job.plans if plan.spares and 3 in plan.settings[0]["layers"]]
    plan = plan.model_copy(update={"shape": on_three_layers})
    outcomes = carry_out(job.model_copy(update={"plans": (plan,)})).outcomes
    assert outcomes[0].refused is not None
    assert outcomes[0].plan.settings == plan.settings
    assert [outcome.plan.settings for outcome in outcomes] == [plan.settings, *plan.spares][: len(outcomes)]
    assert all(outcome.refused for outcome in outcomes[:-1])
    assert outcomes[-1].rows or len(outcomes) == 1 + SPARES


def test_what_is_refused_whatever_is_drawn_ends() -> None:
    refusing = stages().model_copy(update={"trials": ({"layers": (30, 31), "ratios": (0.5, 0.25)},)})
    found = report(carry_out(job_for(ATLAS.atlas, refusing, "float32", "cpu")))
    assert found.runs == found.refused
    assert any("never runs" in fault for fault in found.faults)
    assert [*chain(*generated(refusing))] == [*chain(*generated(refusing))]


def test_a_parameter_that_must_be_a_multiple_of_another_is_drawn_as_one() -> None:
    kivi = ATLAS.technique("kivi")
    defaults = {name: parameter.default for name, parameter in kivi.parameters.items()}
    drawn = [defaults | dict(setting) for settings in generated(kivi) for setting in settings]
    assert len({setting["group_size"] for setting in drawn}) > 3
    assert all(setting["residual_length"] % setting["group_size"] == 0 for setting in drawn)


def test_values_that_only_take_longer_are_not_drawn() -> None:
    size = {"type": "int", "default": 4, "range": "[1, inf)", "doc": "How large.", "tried_up_to": 9}
    entry = made_up("Fine", parameters={"size": size})
    values = {setting["size"] for settings in generated(entry) for setting in settings}
    assert values == {1, 2, 5, 7, 9}


def test_defaults_run_unless_one_is_larger_than_what_is_tried() -> None:
    size = {"type": "int", "default": 4, "range": "[1, inf)", "doc": "How large.", "tried_up_to": 9}
    assert {} in authored(made_up("Fine", parameters={"size": size}))
    large = made_up("Fine", parameters={"size": size | {"default": 10}})
    assert authored(large) == [*map(dict, large.trials)]


@pytest.mark.parametrize("of", ["layer", "keep_ratio", "nothing"])
def test_a_multiple_is_of_another_whole_number_of_the_entry(of: str) -> None:
    layer = {"type": "int", "default": 2, "range": "[0, inf)", "doc": "Where.", "multiple_of": of}
    share = {"type": "float", "default": 0.5, "range": "[0, 1]", "doc": "What is kept."}
    with pytest.raises(ValidationError, match="name another whole-number parameter"):
        made_up("Fine", parameters={"layer": layer, "keep_ratio": share})
