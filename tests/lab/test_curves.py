"""Curves: the knob is what moves the cost, points spread over it, and counts add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lvlm_atlas import load as load_atlas
from lvlm_atlas.atlas.records import CURVES, Records
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.lab.curves import curve
from lvlm_atlas.lab.curves.curve import CurveJob, carry_out
from lvlm_atlas.lab.curves.knob import TARGETS, Settings, knob
from lvlm_atlas.lab.curves.record import up_to_date, write
from lvlm_atlas.lab.photographs.collection import collection
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.lab.training import checkpoint
from lvlm_atlas.lab.training.shapes import shapes
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.weights import fill
from lvlm_atlas.schema.technique import Parameter, Technique
from pictures import write_pictures

TASKS_RUN = ("where", "turns")


def technique(**parameters: Parameter) -> Technique:
    base = load_atlas(data_root()).technique("fastv")
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
    with pytest.raises(ValueError, match="refused"):
        knob(entry, lambda _: None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    collection.cache_clear()
    write_pictures()
    name, config = next(iter(shapes().items()))
    model = fill(LVLM.empty(config), seed=0, dtype=torch.float32, device="cpu")
    empty: dict[str, float] = {}
    about = {"dialect": name, "seed": 0, "steps": 1, "pictures": 1, "samples": 1,
             "accuracy": empty, "blind": empty, "downsampled": empty}  # fmt: skip
    checkpoint.write(tmp_path, "lab-x", model, about)
    yield tmp_path
    for each in (collection, curve._model, curve._sat):
        each.cache_clear()


@pytest.mark.parametrize("id_", ["fastv", "kivi", "uniform"])
def test_counts_of_a_curve_add_up_and_its_record_is_read_again(root: Path, id_: str) -> None:
    entry = load_atlas(data_root()).technique(id_)
    job = CurveJob(technique=entry, root=str(root), checkpoints=("lab-x",), samples=2, tasks=TASKS_RUN, device="cpu")
    answer = carry_out(job)
    assert answer.failed is None
    assert {each.task for each in answer.tasks} | set(answer.idle) | set(answer.refused) == set(TASKS_RUN)
    for each in answer.tasks:
        assert each.of == sum(len(TASKS[each.task].sample(number).turns) for number in range(2))
        for point in each.points:
            assert point.right == each.full - point.lost + point.gained
            assert point.hard_right <= each.hard
    write(root, answer, {"lab-x": "0" * 64}, "cpu")
    again = Records(root, CURVES)
    assert again[id_].tasks == answer.tasks
    assert up_to_date(again, id_, {"lab-x": "0" * 64})
    assert not up_to_date(again, id_, {"lab-x": "1" * 64})


def test_a_technique_whose_own_weights_nobody_trained_has_no_curve(root: Path) -> None:
    entry = load_atlas(data_root()).technique("adaptive-keyframe-sampling")
    job = CurveJob(technique=entry, root=str(root), checkpoints=("lab-x",), samples=1, tasks=TASKS_RUN, device="cpu")
    answer = carry_out(job)
    assert answer.untrained
    assert not answer.tasks
