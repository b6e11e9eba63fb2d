"""Puts the record of a stack together, and writes it: a file a stack, in place of an earlier one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from lvlm_atlas.atlas.records import STACKS
from lvlm_atlas.files import replace_file
from lvlm_atlas.lab.joint.departure import departure, kept
from lvlm_atlas.lab.joint.job import JointAnswer, TaskAnswers
from lvlm_atlas.lab.record import as_yaml, run_fields
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.stack import MeasuredStack, Member, StackTask
from lvlm_atlas.specs.joint import record_of, stack_id


def up_to_date(
    stacks: Mapping[str, MeasuredStack], settings: Mapping[str, Mapping[str, Setting]], hashes: Mapping[str, str],
    parts: Mapping[str, str], samples: int,
) -> bool:  # fmt: skip
    """Whether techniques have a record at these settings on these trained models and at least so many samples.

    Args:
        stacks: the records.
        settings: of each technique.
        hashes: of the models' weights, by model.
        parts: hashes of all trained parts, by part.
        samples: of each task.
    """
    known = record_of(stacks, settings)
    if known is None or known.checkpoints != dict(hashes) or not known.parts.items() <= parts.items():
        return False
    whole = all(each.samples >= samples for each in known.tasks)
    return whole and {each.technique: each.setting for each in known.members} == settings


def known_alone(
    stacks: Iterable[MeasuredStack], technique: str, setting: Mapping[str, Setting], hashes: Mapping[str, str],
    parts: Mapping[str, str], tasks: Collection[str], samples: int,
) -> JointAnswer | None:  # fmt: skip
    """What a technique alone answers rightly, where records of stacks say it of all these models and tasks.

    Args:
        stacks: the records.
        technique: the technique.
        setting: its setting.
        hashes: of the models' weights, by model.
        parts: hashes of all trained parts, by part.
        tasks: the tasks.
        samples: of each task.
    """
    rows = {
        (each.checkpoint, each.task): TaskAnswers(
            checkpoint=each.checkpoint, task=each.task, full=each.full, right=each.alone[at]
        )
        for stack in stacks
        if stack.parts.items() <= parts.items()
        for at, member in enumerate(stack.members)
        if member.technique == technique and member.setting == setting
        for each in stack.tasks
        if stack.checkpoints[each.checkpoint] == hashes.get(each.checkpoint) and each.samples == samples
    }
    wanted = [(model, task) for model in hashes for task in tasks]
    if not all(each in rows for each in wanted):
        return None
    return JointAnswer(techniques=(technique,), tasks=tuple(rows[each] for each in wanted))


def compared(joint: JointAnswer, alone: Sequence[JointAnswer], samples: int) -> tuple[StackTask, ...]:
    """The tasks that were run with each technique alone and with all, question by question."""
    rows = [{(each.checkpoint, each.task): each.right for each in answer.tasks} for answer in alone]
    return tuple(
        StackTask(
            checkpoint=each.checkpoint, task=each.task, samples=samples, full=each.full,
            alone=tuple(row[each.checkpoint, each.task] for row in rows), joint=each.right,
        )
        for each in joint.tasks
        if all((each.checkpoint, each.task) in row for row in rows)
    )  # fmt: skip


def record(
    settings: Mapping[str, Mapping[str, Setting]], tasks: tuple[StackTask, ...], hashes: Mapping[str, str], root: Path,
    device: str, why: tuple[str, ...], joint: JointAnswer,
) -> MeasuredStack:  # fmt: skip
    """The record of a stack.

    Args:
        settings: of each technique, in pipeline order.
        tasks: what was answered rightly.
        hashes: trained models that all have a curve of, with the hashes of their weights.
        root: the checkout.
        device: where it ran.
        why: why they were run together.
        joint: what came of the run of all, for the tasks that were refused and the trained parts.
    """
    shares, together = kept(tasks)
    found = departure(tasks)
    members = tuple(
        Member(technique=id_, setting=dict(setting), kept=share)
        for (id_, setting), share in zip(settings.items(), shares, strict=True)
    )
    return MeasuredStack(
        id=stack_id(settings), **run_fields(root, device), checkpoints=dict(hashes), members=members, why=why,
        kept=together, departure=found, verdict=found.verdict, tasks=tasks, refused=joint.refused, parts=joint.parts,
    )  # fmt: skip


def write(root: Path, stack: MeasuredStack) -> Path:
    """Write a record under catalog/stacks, and return its path.

    Raises:
        AtlasError: it cannot be written.
    """
    path = root / STACKS / f"{stack.id}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, as_yaml(stack, "stack", width=400))
    return path
