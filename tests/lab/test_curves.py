"""Curves: the knob is what moves the cost, points spread over it, and counts add up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lvlm_atlas import load as load_atlas
from lvlm_atlas.atlas.records import CURVES, Records
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.atlas.trained import FOLDER, MODEL
from lvlm_atlas.lab.curves.curve import CurveJob, carry_out
from lvlm_atlas.lab.curves.knob import TARGETS, Knob, Settings
from lvlm_atlas.lab.curves.knob import knob as knob_of
from lvlm_atlas.lab.curves.record import missing, write
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.training.checkpoint import known
from lvlm_atlas.schema.technique import Parameter, Technique

ROOT = data_root()
TASKS_RUN = ("where", "turns")


def knob(entry: Technique, cost_of: Callable[[Settings], dict[str, float] | None]) -> Knob:
    found = knob_of(entry, cost_of)
    assert found is not None
    return found


def technique(**parameters: Parameter) -> Technique:
    base = load_atlas(ROOT).technique("fastv")
    return base.model_copy(update={"parameters": parameters, "trials": (), "neutral": None})


def share(default: float = 0.5) -> Parameter:
    return Parameter(type="float", default=default, range="[0, 1]", doc="A share.")


def costs(of: Callable[[Settings], float]) -> Callable[[Settings], dict[str, float]]:
    return lambda setting: {"vision_tokens": of(setting), "kv_byte": 1.0}


def test_the_knob_is_the_parameter_that_moves_the_cost_most() -> None:
    entry = technique(little=share(), much=share())
    found = knob(entry, costs(lambda s: 0.5 + 0.4 * float(s.get("much", 0.5)) + 0.1 * float(s.get("little", 0.5))))
    assert found.parameter == "much"
    assert found.main_cost == "vision_tokens"


def test_points_lie_near_the_targets_between_the_least_cost_and_all() -> None:
    found = knob(technique(keep=share()), costs(lambda setting: 0.5 + 0.5 * float(setting.get("keep", 0.5))))
    reached = sorted(0.5 + 0.5 * float(setting.get("keep", 0.5)) for setting in found.settings)
    for target in TARGETS[:-1]:
        assert min(abs(each - (0.5 + 0.5 * target)) for each in reached) < 0.05
    assert reached == sorted(reached)
    assert {} in found.settings


def test_without_a_knob_there_is_one_point() -> None:
    found = knob(technique(other=share()), costs(lambda _: 0.3))
    assert found.parameter is None
    assert found.settings == ({},)


def test_settings_that_are_refused_are_none() -> None:
    entry = technique(keep=share())
    found = knob(
        entry, lambda s: None if float(s.get("keep", 0.5)) < 0.4 else {"vision_tokens": float(s.get("keep", 0.5))}
    )
    assert all(float(setting.get("keep", 0.5)) >= 0.4 for setting in found.settings)
    assert knob_of(entry, lambda _: None) is None


@pytest.mark.parametrize(("trained", "most"), [((), 96), (({"side": 384},), 384)])
def test_no_value_is_tried_above_what_an_entry_or_its_trained_weights_say(
    trained: tuple[Settings, ...], most: int
) -> None:
    side = Parameter(type="int", default=32, range="[1, inf)", tried_up_to=96, doc="A side.")
    tried: list[int] = []

    def cost_of(setting: Settings) -> dict[str, float]:
        side = setting.get("side", 32)
        assert isinstance(side, int)
        tried.append(side)
        return {"vision_tokens": side / 1000}

    knob_of(technique(side=side), cost_of, trained)
    assert max(tried) == most


pytestmark = pytest.mark.usefixtures("noise")


def job_of(id_: str, samples: int) -> CurveJob:
    """A technique on the first of the committed models."""
    return CurveJob(
        technique=load_atlas(ROOT).technique(id_), root=str(ROOT), checkpoints=tuple(known(ROOT))[:1],
        samples=samples, tasks=TASKS_RUN, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("id_", ["fastv", "uniform"])
def test_counts_of_a_curve_add_up_and_its_record_is_read_again(tmp_path: Path, id_: str) -> None:
    answer = carry_out(job_of(id_, samples=2))
    assert answer.failed is None
    assert {each.task for each in answer.tasks} | set(answer.idle) | set(answer.refused) == set(TASKS_RUN)
    for each in answer.tasks:
        assert each.of == sum(len(TASKS[each.task].sample(number).turns) for number in range(2))
        for point in each.points:
            assert point.right == each.full - point.lost + point.gained
            assert point.hard_right <= each.hard
    name = answer.tasks[0].checkpoint
    write(tmp_path, answer, 2, {name: "0" * 64}, "cpu")
    again = Records(tmp_path, CURVES)[id_]
    assert again.tasks == answer.tasks
    assert missing(again, 2, {name: "0" * 64}) == ()
    assert missing(again, 3, {name: "0" * 64}) == missing(again, 2, {name: "1" * 64}) == (name,)


def test_a_model_that_comes_later_is_added_to_the_record(tmp_path: Path) -> None:
    answer = carry_out(job_of("fastv", samples=1))
    (name,) = {each.checkpoint for each in answer.tasks}
    write(tmp_path, answer, 1, {name: "0" * 64}, "cpu")
    earlier, both = Records(tmp_path, CURVES)["fastv"], {name: "0" * 64, "lab-x": "1" * 64}
    assert missing(earlier, 1, both) == ("lab-x",)
    other = answer.model_copy(
        update={
            "tasks": tuple(each.model_copy(update={"checkpoint": "lab-x"}) for each in answer.tasks),
            "checkpoints": ("lab-x",),
        }
    )
    write(tmp_path, other, 1, both, "cpu", earlier=earlier)
    held = Records(tmp_path, CURVES)["fastv"]
    assert missing(held, 1, both) == ()
    for one, two in zip(held.tasks[::2], held.tasks[1::2], strict=True):
        assert (one.checkpoint, two.checkpoint) == (name, "lab-x")
        assert (one.task, one.points) == (two.task, two.points)


def test_a_technique_whose_own_weights_nobody_trained_has_no_curve(tmp_path: Path) -> None:
    job = job_of("adaptive-keyframe-sampling", samples=1)
    (name,) = job.checkpoints
    shutil.copytree(ROOT / FOLDER / name, tmp_path / FOLDER / name)  # without the parts beside it
    answer = carry_out(job.model_copy(update={"root": str(tmp_path)}))
    assert answer.untrained
    assert not answer.tasks


def test_a_technique_whose_paper_trains_the_model_for_it_runs_untuned_and_its_record_says_so(tmp_path: Path) -> None:
    answer = carry_out(job_of("longva", samples=1))
    assert answer.untuned
    assert answer.tasks
    (name,) = answer.checkpoints
    write(tmp_path, answer, 1, {name: "0" * 64}, "cpu")
    assert Records(tmp_path, CURVES)["longva"].untuned
    assert not carry_out(job_of("uniform", samples=1)).untuned


def test_a_task_that_a_model_does_badly_is_not_run_on_it(tmp_path: Path) -> None:
    job = job_of("uniform", samples=1)
    (name,) = job.checkpoints
    shutil.copytree(ROOT / FOLDER / name, tmp_path / FOLDER / name)
    record = tmp_path / FOLDER / name / MODEL
    about = yaml.safe_load(record.read_text("utf-8"))
    about["accuracy"]["where"] = TASKS["where"].least - 0.01
    record.write_text(yaml.safe_dump(about), encoding="utf-8")
    answer = carry_out(job.model_copy(update={"root": str(tmp_path)}))
    assert [each.task for each in answer.tasks] == ["turns"]
    assert "where" not in {*answer.idle, *answer.refused}


def test_a_technique_that_declines_the_model_says_why(tmp_path: Path) -> None:
    job = job_of("llava-prumerge", samples=1)
    (name,) = job.checkpoints
    shutil.copytree(ROOT / FOLDER / name, tmp_path / FOLDER / name)  # without the last layer that was trained for it
    answer = carry_out(job.model_copy(update={"root": str(tmp_path)}))
    assert answer.unsuited
    assert "layer" in answer.unsuited
    assert answer.declined == {name: answer.unsuited}
    assert answer.failed is None


def test_a_model_that_comes_later_and_is_declined_stands_in_the_record_with_the_reason(tmp_path: Path) -> None:
    committed = load_atlas(ROOT).atlas.curves["pooling"]
    later = next(each.id for each in known(ROOT).values() if each.dialect != "llava")
    job = job_of("pooling", samples=1)
    answer = carry_out(job.model_copy(update={"checkpoints": (later,), "again": committed}))
    assert not answer.untrained
    assert "this model cannot give it" in answer.declined[later]
    bare = committed.model_copy(update={"declined": {}})
    both = {**committed.checkpoints, later: "0" * 64}
    assert missing(bare, committed.samples, both) == (later,)
    write(tmp_path, answer, committed.samples, both, "cpu", earlier=bare)
    held = Records(tmp_path, CURVES)["pooling"]
    assert held == bare.model_copy(update={"declined": answer.declined})
    assert not missing(held, committed.samples, both)
