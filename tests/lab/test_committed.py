"""The committed curves and stacks, run again in part: what comes out lies near. Needs the lab's photographs."""

from __future__ import annotations

import pytest

from lvlm_atlas import load
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.lab.curves import curve
from lvlm_atlas.lab.curves.curve import CurveJob, carry_out
from lvlm_atlas.lab.joint import job as joint
from lvlm_atlas.lab.joint.job import JointJob
from lvlm_atlas.lab.photographs.collection import collection, place
from lvlm_atlas.lab.training.checkpoint import known
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.stack import MeasuredStack
from lvlm_atlas.specs.answers import architecture_of, architectures_of, kept, of_architecture, tasks_of

ROOT = data_root()
EVERY, TASKS_RUN = 40, 2
"""Of the curves in order of their names every so many-th runs again, on so many tasks, on a model an architecture."""
CURVES = [curve_ for at, curve_ in enumerate(load(ROOT).atlas.curves.values()) if at % EVERY == 0]

STACKS = [*load(ROOT).atlas.stacks.values()][:1]
"""The stacks that run again, on the task of theirs with fewest questions."""
DIFFERENT = 0.1
"""Share of the questions that another machine may answer otherwise."""


@pytest.fixture(scope="module", autouse=True)
def photographs():
    if not place().is_file():
        pytest.skip("the lab's photographs are not here; `lvlm-atlas lab fetch` brings them")
    collection.cache_clear()
    yield
    for each in (collection, curve.model_of, curve.equipment_of, curve.sat_of):
        each.cache_clear()


@pytest.mark.catalog
@pytest.mark.parametrize("committed", CURVES, ids=[each.id for each in CURVES])
def test_a_committed_curve_comes_out_again(committed: Curve) -> None:
    tasks = tasks_of(committed)[:TASKS_RUN]
    models = {architecture_of(name): name for name in reversed(committed.checkpoints)}.values()
    ours = tuple(each for each in committed.tasks if each.checkpoint in models)
    committed = committed.model_copy(update={"tasks": ours})
    job = CurveJob(
        technique=load(ROOT).technique(committed.id), root=str(ROOT), checkpoints=tuple(models),
        samples=committed.samples, tasks=tasks, device="cpu", again=committed,
    )  # fmt: skip
    answer = carry_out(job)
    assert answer.failed is None
    again = committed.model_copy(update={"tasks": answer.tasks})
    asked = {architecture_of(each.checkpoint) for each in committed.tasks if each.task in tasks}
    assert {*architectures_of(again)} == asked
    for name in asked:
        then, now = (kept(of_architecture(each, name), tasks) for each in (committed, again))
        for one, other in zip(then, now, strict=True):
            assert one.setting == other.setting
            assert abs(one.share - other.share) <= one.margin + 1 / committed.samples


@pytest.mark.catalog
@pytest.mark.parametrize("committed", STACKS, ids=[each.id for each in STACKS])
def test_a_committed_stack_comes_out_again(committed: MeasuredStack) -> None:
    task = min(committed.tasks, key=lambda each: len(each.full))
    answer = joint.carry_out(JointJob(
        techniques=tuple(load(ROOT).technique(id_) for id_ in committed.techniques),
        settings=tuple(each.setting for each in committed.members), root=str(ROOT), checkpoint=task.checkpoint,
        samples=task.samples, tasks=(task.task,), device="cpu",
    ))  # fmt: skip
    assert answer.failed is None
    (again,) = answer.tasks
    for one, other in ((task.full, again.full), (task.joint, again.right)):
        changed = sum(now != then for now, then in zip(one, other, strict=True))
        assert changed <= DIFFERENT * len(one)


def test_the_weights_of_committed_models_are_those_of_their_records() -> None:
    for checkpoint in known(ROOT).values():
        curve.load(ROOT, checkpoint)
