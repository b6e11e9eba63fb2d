"""Runs of stacks: each technique alone once, a record as soon as all of its parts are there, none for what fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from lvlm_atlas import load
from lvlm_atlas.atlas.records import STACKS, Records
from lvlm_atlas.cli.joint import _Run
from lvlm_atlas.lab.joint.job import JointAnswer, JointJob, TaskAnswers
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.planner.interest import Interesting, interesting, settings

KB = load()
SAMPLES = 3


@pytest.fixture
def run(tmp_path: Path) -> _Run:
    curves = KB.atlas.curves
    hashes = {name: hash_ for curve in curves.values() for name, hash_ in curve.checkpoints.items()}
    return _Run(
        tmp_path,
        settings(KB),
        hashes,
        SAMPLES,
        dict.fromkeys(hashes, tuple(TASKS)),
        "cpu",
        curves,
        {name: {} for name in hashes},
        {},
        again=False,
    )


@pytest.fixture(scope="module")
def stacks() -> list[Interesting]:
    return interesting(KB, set(), 6)


def answered(job: JointJob, right: str = "101", **more: object) -> JointAnswer:
    tasks = tuple(TaskAnswers(task=task, full="111", right=right) for task in job.tasks)
    return JointAnswer.model_validate(
        {"techniques": job.ids, "checkpoint": job.checkpoint, "tasks": tasks, **more}
    )  # fmt: skip


def some_model(stacks: list[Interesting]) -> str:
    return stacks[0].checkpoints[0]


def test_each_runs_alone_once_and_records_come_in_whatever_order_answers_do(
    run: _Run, stacks: list[Interesting]
) -> None:
    name = some_model(stacks)
    jobs = [*run.jobs(name, stacks)]
    alone = [job.ids[0] for job in jobs if len(job.ids) == 1]
    assert sorted(alone) == sorted({each.id for stack in stacks for each in stack.techniques})
    said = [line for job in reversed(jobs) for line in run.take(answered(job))]
    assert len(said) == len(stacks)
    assert not run.failed
    records = Records(run.root, STACKS)
    assert {*records} == {each.id for each in stacks}
    for each in stacks:
        record = records[each.id]
        assert record.techniques == tuple(technique.id for technique in each.techniques)
        assert record.kept == pytest.approx(2 / 3, abs=1e-4)
        assert record.departure.value == pytest.approx(-1 / 3, abs=1e-4)
        assert record.checkpoints == {name: run.hashes[name]}
        assert record.why == each.why


def test_each_model_more_joins_the_record(run: _Run, stacks: list[Interesting]) -> None:
    both = [each for each in stacks if len(each.checkpoints) > 1]
    assert both
    for name in run.hashes:
        assert all(run.lacks(each, name) == (name in each.checkpoints) for each in both)
        theirs = [each for each in both if name in each.checkpoints]
        said = [line for job in run.jobs(name, theirs) for line in run.take(answered(job))]
        assert len(said) == len(theirs)
        assert not any(run.lacks(each, name) for each in both)
    records = Records(run.root, STACKS)
    for each in both:
        assert records[each.id].checkpoints == {name: run.hashes[name] for name in each.checkpoints}
        assert {(row.task, row.checkpoint) for row in records[each.id].tasks} == {
            (task, name) for task in each.tasks for name in each.checkpoints
        }
    run.again = True
    assert all(run.lacks(each, name) for each in both for name in each.checkpoints)


def test_a_run_that_goes_on_asks_nothing_alone_that_records_tell(run: _Run, stacks: list[Interesting]) -> None:
    name = some_model(stacks)
    first = stacks[0]
    for job in run.jobs(name, [first]):
        [*run.take(answered(job))]
    again = replace(run, alone={}, stacks={**Records(run.root, STACKS)})
    asked = {job.ids for job in again.jobs(name, stacks)}
    told = {id_ for id_, _ in again.alone}
    assert told <= {each.id for each in first.techniques}
    assert asked == {
        *(tuple(each.id for each in stack.techniques) for stack in stacks),
        *((each.id,) for stack in stacks for each in stack.techniques if each.id not in told),
    }


def test_what_fails_or_is_declined_has_no_record(run: _Run, stacks: list[Interesting]) -> None:
    first, second = stacks[:2]
    said, name = [], some_model(stacks)
    for job in run.jobs(name, [first, second]):
        if len(job.ids) == 1:
            answer = answered(job)
        elif job.ids == tuple(each.id for each in first.techniques):
            answer = JointAnswer(techniques=job.ids, checkpoint=name, failed="ValueError: it broke")
        else:
            answer = JointAnswer(techniques=job.ids, checkpoint=name, refused={"read": "they share a place"})
        said += run.take(answer)
    assert "FAILED: ValueError: it broke" in said[0]
    assert said[1].endswith(": they share a place")
    assert run.failed == 1
    assert not (run.root / STACKS).exists()


def test_a_run_of_some_tasks_writes_nothing(run: _Run, stacks: list[Interesting]) -> None:
    run.recorded, run.tasks = False, dict.fromkeys(run.hashes, stacks[0].tasks[:1])
    said = [line for job in run.jobs(some_model(stacks), stacks[:1]) for line in run.take(answered(job))]
    assert len(said) == 1
    assert not (run.root / STACKS).exists()
