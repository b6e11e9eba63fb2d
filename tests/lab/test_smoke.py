"""The smoke run: every reference passes, and none takes the run down."""

from __future__ import annotations

import os
import textwrap
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lvlm_atlas import load
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.isolation import Bounds
from lvlm_atlas.lab.job import Job
from lvlm_atlas.lab.smoke import WORKLOAD, jobs_for, smoke
from lvlm_atlas.needs import LACKS
from lvlm_atlas.reference.lvlm.points import POINTS
from lvlm_atlas.schema.measurement import SmokeResult
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.schema.vocabulary import PositionTerm

ATLAS = load(Path(__file__).resolve().parents[2])
IMPLEMENTED = [t for t in ATLAS.atlas.techniques.values() if t.reference]


def only(technique: Technique) -> str:
    return technique.id


@pytest.fixture(scope="module")
def outcomes(device: str) -> dict[str, list[SmokeResult]]:
    jobs = jobs_for(IMPLEMENTED, WORKLOAD, device)
    return {answer.results[0].technique: list(answer.results) for answer in smoke(jobs)}


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=only)
def test_every_reference_passes_the_smoke_test(outcomes: dict[str, list[SmokeResult]], technique: Technique) -> None:
    results = outcomes[technique.id]
    assert len(results) == len(technique.trials)
    assert [result.failed for result in results] == [{}] * len(results)
    assert all(len(result.passed) + len(result.skipped) == 9 for result in results)
    assert all(bool(result.skipped) == bool(technique.no_neutral) for result in results)


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
def test_a_reference_needs_what_its_entry_says(technique: Technique) -> None:
    assert resolve_name(str(technique.reference)).needs == technique.needs


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
    numbers = st.integers(-4, 4) if parameter.type == "int" else st.sampled_from([-3.0, -0.5, 0.0, 0.5, 1.0, 1.5, 9.0])
    value = data.draw(numbers if parameter.type in ("int", "float") else st.sampled_from(["no such choice", 3]))
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


BAD = """
    import os, sys, time
    from lvlm_atlas.reference.lvlm import Technique
    class Bad(Technique):
        acts_at = ("llm-input",)
    class Raises(Bad):
        def llm_input(self, at): raise RuntimeError("no such luck")
    class Exits(Bad):
        def llm_input(self, at): os._exit(7)
    class Hangs(Bad):
        def llm_input(self, at): time.sleep(600)
    class Grows(Bad):
        def llm_input(self, at):
            self.hoard = bytearray(3 * 2**30)
            for place in range(0, len(self.hoard), 4096): self.hoard[place] = 1
            time.sleep(600)
    class Prints(Bad):
        def llm_input(self, at): print("{not json}"); sys.exit("so there")
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of references that misbehave, importable by the workers."""
    (tmp_path / "bad_references.py").write_text(textwrap.dedent(BAD))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))


def job(name: str) -> Job:
    return Job(
        technique="bad",
        reference=f"bad_references:{name}",
        neutral={},
        trials=({},),
        workload=WORKLOAD.model_copy(update={"frames": 1, "output_tokens": 1}),
        device="cpu",
    )


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", "RuntimeError: no such luck"),
        ("Exits", "the process ended with 7"),
        ("Prints", "the process ended with 1: so there"),
        ("Grows", "more than 1024"),
        ("Missing", "AttributeError"),
    ],
)
def test_a_reference_that_misbehaves_fails_alone(name: str, said: str) -> None:
    bounds = Bounds(time_s=60, memory_byte=2**30)
    (answer,) = smoke([job(name)], bounds=bounds)
    assert said in answer.results[0].failed["runs"]


def test_without_a_neutral_setting_that_check_is_skipped_with_its_reason() -> None:
    technique = ATLAS.technique("random").model_copy(update={"neutral": None, "no_neutral": "It sorts the tokens."})
    (answer,) = smoke(jobs_for([technique], WORKLOAD, "cpu"))
    for result in answer.results:
        assert result.failed == {}
        assert result.skipped == {"neutral-is-identity": "It sorts the tokens."}
        assert "neutral-is-identity" not in result.passed
        assert len(result.passed) == 8


@pytest.mark.usefixtures("bad")
def test_a_reference_that_hangs_is_stopped_and_the_others_finish() -> None:
    answers = list(smoke([job("Hangs"), job("Raises")], bounds=Bounds(time_s=20), workers=2))
    said = sorted(answer.results[0].failed["runs"] for answer in answers)
    assert said == ["RuntimeError: no such luck", "took longer than 20 s and was stopped"]


@pytest.mark.usefixtures("bad")
def test_leaving_early_leaves_no_process_behind() -> None:
    import psutil

    answers = smoke([job("Raises"), job("Hangs"), job("Hangs")], workers=2)
    next(answers)
    answers.close()
    workers = [p for p in psutil.Process().children(recursive=True) if "lvlm_atlas.lab.worker" in " ".join(p.cmdline())]
    assert workers == []


def test_a_technique_that_is_only_described_cannot_be_run() -> None:
    described = IMPLEMENTED[0].model_copy(update={"reference": None})
    with pytest.raises(AtlasError, match="is only described"):
        jobs_for([described], WORKLOAD, "cpu")
