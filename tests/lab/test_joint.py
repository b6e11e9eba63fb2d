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
from lvlm_atlas.lab.joint.record import compared, holding, known_alone, record, write
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


def test_a_task_that_one_model_lacks_counts_as_much_as_one_that_all_have() -> None:
    harm, none = "0" * 10 + "1" * 30, "1" * 40
    read = [task(none, [none, none], harm, checkpoint=name) for name in ("lab-a", "lab-b")]
    found = departure([*read, task(none, [none, none], none, "where")])
    assert found.value == pytest.approx(0.125)
    assert found.low > 0
    assert kept([*read, task(none, [none, none], none, "where")]) == ((1.0, 1.0), 0.875)


def test_models_may_have_been_asked_different_numbers_of_samples() -> None:
    harm = [task("1" * 40, ["1" * 40] * 2, "0" * 10 + "1" * 30), task("1" * 8, ["1" * 8] * 2, "1" * 8, checkpoint="b")]
    found = departure(harm)
    assert found.value == pytest.approx(0.125)
    assert found.low <= 0 < found.high


def test_shares_kept_are_those_of_what_the_model_answers_alone() -> None:
    assert kept([task("1100", ["1000", "1101"], "0100")]) == ((0.5, 1.5), 0.5)


@pytest.mark.usefixtures("noise")
def test_a_record_holds_the_same_questions_alone_and_together_and_is_read_again(tmp_path: Path) -> None:
    joint, *alone = (_run(*ids) for ids in (("fastv", "kivi"), ("fastv",), ("kivi",)))
    tasks = compared(joint, alone, 2)
    assert [each.task for each in tasks] == ["where", "turns"]
    for each in tasks:
        assert {len(each.full), len(each.joint), *map(len, each.alone)} == {2 if each.task == "where" else 16}
    model, settings = joint.checkpoint, {"fastv": {}, "kivi": {}}
    hashes = {model: "0" * 64}
    made = record(settings, tasks, hashes[model], ROOT, "cpu", ("Because.",), joint)
    write(tmp_path, made)
    again = Records(tmp_path, STACKS)["fastv.kivi"]
    assert again == made
    assert made.departure.value == pytest.approx(departure_of(made), abs=1e-4)
    assert holding(again, settings, hashes, {}, 2) == (model,)
    assert holding(again, settings, hashes, {}, 1) == (model,), "a run of fewer samples takes the place of none"
    assert not holding(again, settings, hashes, {}, 3)
    assert not holding(again, settings, {model: "1" * 64}, {}, 2)
    assert not holding(again, settings | {"kivi": {"bits": 4}}, hashes, {}, 2)
    assert not holding(again, settings | {"h2o": {}}, hashes, {}, 2)
    assert not holding(None, settings, hashes, {}, 2)


@pytest.mark.usefixtures("noise")
def test_a_model_more_joins_those_that_a_record_holds_and_takes_the_place_of_itself() -> None:
    joint, *alone = (_run(*ids) for ids in (("fastv", "kivi"), ("fastv",), ("kivi",)))
    settings, model = {"fastv": {}, "kivi": {}}, joint.checkpoint
    tasks, part = compared(joint, alone, 2), {f"{model}-draft": "2" * 64}
    first = record(
        settings, tasks, "0" * 64, ROOT, "cpu", (), joint.model_copy(update={"parts": part, "refused": {"read": "No."}})
    )
    other = joint.model_copy(update={"checkpoint": "lab-x"})
    both = record(settings, compared(other, alone, 2), "1" * 64, ROOT, "cpu", (), other, first, (model,))
    assert both.checkpoints == {model: "0" * 64, "lab-x": "1" * 64}
    assert both.parts == part
    assert [(each.task, each.checkpoint) for each in both.tasks] == [
        (task, name) for task in ("where", "turns") for name in (model, "lab-x")
    ]
    assert both.departure.value == pytest.approx(first.departure.value, abs=1e-4)
    assert holding(both, settings, both.checkpoints, {model: part}, 2) == (model, "lab-x")
    assert holding(both, settings, both.checkpoints, {model: {f"{model}-draft": "3" * 64}}, 2) == ("lab-x",)
    again = record(settings, tasks, "0" * 64, ROOT, "cpu", (), joint, both, ("lab-x",))
    assert (again.checkpoints, again.tasks, again.parts) == (both.checkpoints, both.tasks, {})
    alone_again = record(settings, tasks, "0" * 64, ROOT, "cpu", (), joint, both, ())
    assert (alone_again.checkpoints, alone_again.tasks) == (first.checkpoints, first.tasks)


@pytest.mark.usefixtures("noise")
def test_what_a_technique_answers_alone_is_taken_from_records_that_say_it_whole() -> None:
    joint, *alone = (_run(*ids) for ids in (("fastv", "kivi"), ("fastv",), ("kivi",)))
    model, hash_ = joint.checkpoint, "0" * 64
    part = {f"{model}-draft": "2" * 64}
    made = record(
        {"fastv": {}, "kivi": {}}, compared(joint, alone, 2), hash_, ROOT, "cpu", (),
        joint.model_copy(update={"parts": part}),
    )  # fmt: skip
    tasks = ("where", "turns")
    found = known_alone([made], "kivi", {}, model, hash_, part, tasks, 2)
    assert found is not None
    assert found.tasks == alone[1].tasks
    for setting, name, now, parts, asked, samples in (
        ({"bits": 4}, model, hash_, part, tasks, 2), ({}, model, "1" * 64, part, tasks, 2),
        ({}, "lab-x", hash_, part, tasks, 2), ({}, model, hash_, dict.fromkeys(part, "3" * 64), tasks, 2),
        ({}, model, hash_, part, (*tasks, "read"), 2), ({}, model, hash_, part, tasks, 3),
    ):  # fmt: skip
        assert known_alone([made], "kivi", setting, name, now, parts, asked, samples) is None


@pytest.mark.usefixtures("noise")
def test_what_two_decline_together_is_refused_by_task() -> None:
    answer = _run("kivi", "turboquant")
    assert answer.failed is None
    assert not answer.tasks
    assert answer.refused.keys() == {"where", "turns"}


def _run(*ids: str) -> JointAnswer:
    return carry_out(JointJob(
        techniques=tuple(KB.technique(id_) for id_ in ids), settings=tuple({} for _ in ids), root=str(ROOT),
        checkpoint=next(iter(known(ROOT))), samples=2, tasks=("where", "turns"), device="cpu",
    ))  # fmt: skip
