"""Techniques together: what a joint loss is held against, and what a record holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.atlas.records import STACKS, Records
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.lab.joint.departure import departure, kept
from lvlm_atlas.lab.joint.job import JointAnswer, JointJob, carry_out
from lvlm_atlas.lab.joint.record import compared, known_alone, record, up_to_date, write
from lvlm_atlas.lab.training.checkpoint import known
from lvlm_atlas.schema.stack import StackTask
from lvlm_atlas.specs.joint import departure as departure_of

ROOT = data_root()
KB = load(ROOT)


def task(full: str, alone: Sequence[str], joint: str, name: str = "read", checkpoint: str = "lab-a") -> StackTask:
    return StackTask(
        checkpoint=checkpoint, task=name, samples=len(full), full=full, alone=tuple(alone), joint=joint
    )  # fmt: skip


def test_losses_of_different_questions_add_up() -> None:
    found = departure([task("1" * 40, ["0" * 4 + "1" * 36, "1" * 36 + "0" * 4], "0" * 4 + "1" * 32 + "0" * 4)])
    assert found.value == found.low == found.high == 0
    assert found.verdict == "additive"


def test_the_same_questions_lost_twice_are_redundant() -> None:
    lost = "0" * 10 + "1" * 30
    found = departure([task("1" * 40, [lost, lost], lost)])
    assert found.value == pytest.approx(-0.25)
    assert found.low < found.value < found.high < 0
    assert found.verdict == "redundant"


def test_what_only_both_together_lose_is_harm() -> None:
    found = departure([task("1" * 40, ["1" * 40, "1" * 40], "0" * 10 + "1" * 30)])
    assert found.value == pytest.approx(0.25)
    assert found.verdict == "harmful"


def test_one_question_is_not_enough_to_tell() -> None:
    found = departure([task("1" * 40, ["1" * 40, "1" * 40], "0" + "1" * 39)])
    assert found.low <= 0 < found.value
    assert found.verdict == "additive"


def test_tasks_and_models_count_alike_and_models_that_differ_widen_the_interval() -> None:
    harm = ["1" * 40, "1" * 40]
    both = [task("1" * 40, harm, "0" * 10 + "1" * 30), task("1" * 40, harm, "1" * 40, "where")]
    assert departure(both).value == pytest.approx(0.125)
    same = [task("1" * 40, harm, "0" * 10 + "1" * 30, checkpoint=name) for name in ("lab-a", "lab-b")]
    apart = [
        each.model_copy(update={"joint": joint})
        for each, joint in zip(same, ("0" * 20 + "1" * 20, "1" * 40), strict=True)
    ]
    one, other = departure(same), departure(apart)
    assert one.value == other.value
    assert other.high - other.low > 1.5 * (one.high - one.low)


def test_shares_kept_are_those_of_what_the_model_answers_alone() -> None:
    assert kept([task("1100", ["1000", "1101"], "0100")]) == ((0.5, 1.5), 0.5)


@pytest.mark.usefixtures("noise")
def test_a_record_holds_the_same_questions_alone_and_together_and_is_read_again(tmp_path: Path) -> None:
    joint, *alone = (_run(*ids) for ids in (("fastv", "kivi"), ("fastv",), ("kivi",)))
    tasks = compared(joint, alone, 2)
    assert [each.task for each in tasks] == ["where", "turns"]
    for each in tasks:
        assert {len(each.full), len(each.joint), *map(len, each.alone)} == {2 if each.task == "where" else 16}
    hashes, settings = {"lab-x": "0" * 64}, {"fastv": {}, "kivi": {}}
    made = record(settings, tasks, hashes, ROOT, "cpu", ("Because.",), joint)
    write(tmp_path, made)
    again = Records(tmp_path, STACKS)
    assert again["fastv.kivi"] == made
    assert made.departure.value == pytest.approx(departure_of(made), abs=1e-4)
    assert up_to_date(again, settings, hashes, {}, 2)
    assert up_to_date(again, settings, hashes, {}, 1), "a run of fewer samples takes the place of none"
    assert not up_to_date(again, settings, hashes, {}, 3)
    assert not up_to_date(again, settings, {"lab-x": "1" * 64}, {}, 2)
    assert not up_to_date(again, settings | {"kivi": {"bits": 4}}, hashes, {}, 2)
    assert not up_to_date(again, settings | {"h2o": {}}, hashes, {}, 2)


@pytest.mark.usefixtures("noise")
def test_what_a_technique_answers_alone_is_taken_from_records_that_say_it_whole() -> None:
    joint, *alone = (_run(*ids) for ids in (("fastv", "kivi"), ("fastv",), ("kivi",)))
    models = {name: each.sha256 for name, each in [*known(ROOT).items()][:1]}
    part = {"lab-x-draft": "2" * 64}
    made = record(
        {"fastv": {}, "kivi": {}}, compared(joint, alone, 2), models, ROOT, "cpu", (),
        joint.model_copy(update={"parts": part}),
    )  # fmt: skip
    tasks = ("where", "turns")
    found = known_alone([made], "kivi", {}, models, part, tasks, 2)
    assert found is not None
    assert found.tasks == alone[1].tasks
    for setting, hashes, parts, asked, samples in (
        ({"bits": 4}, models, part, tasks, 2), ({}, dict.fromkeys(models, "0" * 64), part, tasks, 2),
        ({}, models, {}, tasks, 2), ({}, models, part, (*tasks, "read"), 2), ({}, models, part, tasks, 3),
    ):  # fmt: skip
        assert known_alone([made], "kivi", setting, hashes, parts, asked, samples) is None


@pytest.mark.usefixtures("noise")
def test_what_two_decline_together_is_refused_by_task() -> None:
    answer = _run("kivi", "turboquant")
    assert answer.failed is None
    assert not answer.tasks
    assert answer.refused.keys() == {"where", "turns"}


def _run(*ids: str) -> JointAnswer:
    return carry_out(JointJob(
        techniques=tuple(KB.technique(id_) for id_ in ids), settings=tuple({} for _ in ids), root=str(ROOT),
        checkpoints=tuple(known(ROOT))[:1], samples=2, tasks=("where", "turns"), device="cpu",
    ))  # fmt: skip
