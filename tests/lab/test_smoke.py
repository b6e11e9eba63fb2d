"""The smoke run: every reference passes, and is what its entry says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lvlm_atlas import load
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.checks import CHECKS, TOLERANCE
from lvlm_atlas.lab.claims import spared
from lvlm_atlas.lab.settings import SHAPES
from lvlm_atlas.lab.smoke import WORKLOAD, jobs_for, smoke
from lvlm_atlas.lab.trials import carry_out
from lvlm_atlas.needs import LACKS
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.points import POINTS
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import PositionTerm

ATLAS = load(Path(__file__).resolve().parents[2])
IMPLEMENTED = [t for t in ATLAS.atlas.techniques.values() if t.reference]


def only(technique: Technique) -> str:
    return technique.id


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_every_reference_passes_the_smoke_test(technique: Technique, dtype: str, device: str) -> None:
    (job,) = jobs_for([technique], WORKLOAD.model_copy(update={"dtype": dtype}), device)
    results = carry_out(job).results
    assert len(results) == len(technique.trials)
    assert [result.failed for result in results] == [{}] * len(results)
    assert all({*result.passed, *result.skipped} == {"runs", *CHECKS} for result in results)
    assert all(result.skipped == spared(technique) for result in results)
    plain = [result.baseline for result in results if result.baseline]
    assert all(len(one.kv_settled_entries) == 1 + one.target_passes and not one.accepted_lengths for one in plain)


@pytest.mark.parametrize("preset", dict.fromkeys(shape.preset for shape in SHAPES))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_tolerance_is_what_rounding_alone_moves(preset: str, dtype: torch.dtype) -> None:
    wide, narrow = LVLM.random(preset), LVLM.random(preset, dtype=dtype)
    moved = []
    for seed in range(3):
        request = random_request(wide.config, frames=6, text_tokens=16, max_new_tokens=1, seed=seed)
        moved.append(float((wide.run(request).logits_NC - narrow.run(request).logits_NC).abs().max()))
    assert TOLERANCE[dtype] / 8 < max(moved) <= TOLERANCE[dtype] / 2


def test_in_processes_of_their_own_they_answer_the_same(device: str) -> None:
    jobs = jobs_for(IMPLEMENTED[1:3], WORKLOAD, device)
    answers = {answer.results[0].technique: answer for answer in smoke(jobs, device=device)}
    assert answers == {job.technique: carry_out(job) for job in jobs}


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_parameters_of_the_entry_are_the_arguments_of_the_reference(technique: Technique) -> None:
    reference = resolve_name(str(technique.reference))
    arguments = {f.name: f.default for f in fields(reference)}
    entry = {name: parameter.default for name, parameter in technique.parameters.items()}
    assert entry.items() <= arguments.items()
    extra = {name: arguments[name] for name in arguments.keys() - entry.keys()}
    assert set(extra.values()) <= {None}, f"arguments that the entry does not name: {extra}"


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_a_reference_acts_where_its_entry_says(technique: Technique) -> None:
    assert resolve_name(str(technique.reference)).acts_at == technique.acts_at


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_a_reference_needs_and_withholds_what_its_entry_says(technique: Technique) -> None:
    reference = resolve_name(str(technique.reference))
    assert (reference.needs, reference.withholds) == (technique.needs, technique.withholds)


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_every_step_of_the_algorithm_names_code_that_is_there(technique: Technique) -> None:
    module = str(technique.reference).split(":")[0]
    for step in technique.algorithm:
        if step.code:
            assert callable(resolve_name(f"{module}:{step.code}"))


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_a_reference_lies_where_its_entry_does(technique: Technique) -> None:
    package, _, class_name = str(technique.reference).partition(":")
    module = technique.id.replace("-", "_")
    assert package == f"lvlm_atlas.reference.techniques.{technique.stage}.{module}"
    assert class_name


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_every_pitfall_has_its_test(technique: Technique, checkout: Path) -> None:
    *_, stage, module = str(technique.reference).partition(":")[0].split(".")
    file = checkout / "tests" / "reference" / "techniques" / stage / f"test_{module}.py"
    text = file.read_text("utf-8")
    missing = [pitfall.test for pitfall in technique.pitfalls if f"def {pitfall.test}(" not in text]
    assert not missing, f"{file.name} lacks {missing}"


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_reference_refuses_what_its_entry_calls_illegal(technique: Technique, data: st.DataObject) -> None:
    if not technique.parameters:
        pytest.skip("it has no parameters")
    name = data.draw(st.sampled_from(sorted(technique.parameters)))
    parameter = technique.parameters[name]
    kind = parameter.type.removesuffix("s")
    numbers = st.integers(-4, 4) if kind == "int" else st.sampled_from([-3.0, -0.5, 0.0, 0.5, 1.0, 1.5, 9.0])
    value = data.draw(numbers if kind in ("int", "float") else st.sampled_from(["no such choice", 3]))
    if parameter.type in ("ints", "floats"):
        value = (value,)
    if parameter.type == "bool" or parameter.problem_with(value) is None:
        return
    with pytest.raises(ValueError, match=name):
        resolve_name(str(technique.reference))(**{**technique.trials[0], name: value})


def test_the_taxonomy_and_the_code_agree_on_the_extension_points() -> None:
    terms = {t.id: t for t in ATLAS.atlas.terms("position") if isinstance(t, PositionTerm)}
    order = sorted(POINTS, key=lambda id_: (terms[id_].order, list(POINTS).index(id_)))
    assert order == list(POINTS)
    assert {id_ for id_, term in terms.items() if term.exclusive} == {id_ for id_, p in POINTS.items() if p.exclusive}
    withheld = {id_: term.withholds for id_, term in terms.items() if term.withholds}
    assert withheld == {id_: point.withholds for id_, point in POINTS.items() if point.withholds}


def test_what_a_model_can_lack_are_needs_of_the_taxonomy() -> None:
    assert LACKS.keys() <= {term.id for term in ATLAS.atlas.terms("need")}


def test_without_a_neutral_setting_that_check_is_skipped_with_its_reason() -> None:
    technique = ATLAS.technique("random").model_copy(update={"neutral": None, "no_neutral": "It sorts the tokens."})
    (answer,) = map(carry_out, jobs_for([technique], WORKLOAD, "cpu"))
    for result in answer.results:
        assert result.failed == {}
        assert result.skipped == {"neutral-is-identity": "It sorts the tokens."}
        assert "neutral-is-identity" not in result.passed
        assert len(result.passed) == 8


def test_a_technique_that_is_only_described_cannot_be_run() -> None:
    described = IMPLEMENTED[0].model_copy(update={"reference": None})
    with pytest.raises(AtlasError, match="is only described"):
        jobs_for([described], WORKLOAD, "cpu")
