"""Runs of stacks: each technique alone once, a record as soon as all of its parts are there, none for what fails."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from lvlm_atlas import load
from lvlm_atlas.atlas.records import STACKS, Records
from lvlm_atlas.cli.joint import _Run
from lvlm_atlas.lab.joint.job import JointAnswer, JointJob, TaskAnswers
from lvlm_atlas.planner.interest import Interesting, interesting, settings

KB = load()
SAMPLES = 3


@pytest.fixture
def run(tmp_path: Path) -> _Run:
    curves = KB.atlas.curves
    hashes = {name: hash_ for curve in curves.values() for name, hash_ in curve.checkpoints.items()}
    return _Run(tmp_path, settings(KB), hashes, SAMPLES, (), "cpu", curves, {})


@pytest.fixture(scope="module")
def stacks() -> list[Interesting]:
    return interesting(KB, set(), 6)


def answered(job: JointJob, right: str = "101", **more: object) -> JointAnswer:
    tasks = (TaskAnswers(checkpoint=model, task=task, full="111", right=right)
             for model in job.checkpoints for task in job.tasks)  # fmt: skip
    return JointAnswer.model_validate({"techniques": job.ids, "tasks": tuple(tasks), **more})


def test_each_runs_alone_once_and_records_come_in_whatever_order_answers_do(
    run: _Run, stacks: list[Interesting]
) -> None:
    jobs = [*run.jobs(stacks)]
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
        assert record.checkpoints == run.models(each.checkpoints)
        assert record.why == each.why


def test_a_run_that_goes_on_asks_nothing_alone_that_records_tell(run: _Run, stacks: list[Interesting]) -> None:
    for job in run.jobs(stacks):
        [*run.take(answered(job))]
    again = _Run(run.root, run.chosen, run.hashes, SAMPLES, (), "cpu", run.curves, {})
    again.recall([*Records(run.root, STACKS).values()])
    for id_, answer in again.alone.items():
        assert {*answer.tasks} == {*run.alone[id_].tasks}
    left = [job for job in again.jobs(stacks) if len(job.ids) == 1]
    assert len(left) == len(run.alone) - len(again.alone)


def test_what_fails_or_is_declined_has_no_record(run: _Run, stacks: list[Interesting]) -> None:
    first, second = stacks[:2]
    said = []
    for job in run.jobs([first, second]):
        if len(job.ids) == 1:
            answer = answered(job)
        elif job.ids == tuple(each.id for each in first.techniques):
            answer = JointAnswer(techniques=job.ids, failed="ValueError: it broke")
        else:
            answer = JointAnswer(techniques=job.ids, refused={"read": "they share a place"})
        said += run.take(answer)
    assert "FAILED: ValueError: it broke" in said[0]
    assert said[1].endswith(": they share a place")
    assert run.failed == 1
    assert not (run.root / STACKS).exists()


def test_a_run_of_some_tasks_writes_nothing(run: _Run, stacks: list[Interesting]) -> None:
    run.tasks = stacks[0].tasks[:1]
    said = [line for job in run.jobs(stacks[:1]) for line in run.take(answered(job))]
    assert len(said) == 1
    assert not (run.root / STACKS).exists()
