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
from lvlm_atlas.specs.joint import stack_id


def holding(
    known: MeasuredStack | None, settings: Mapping[str, Mapping[str, Setting]], hashes: Mapping[str, str],
    parts: Mapping[str, Mapping[str, str]], samples: int,
) -> tuple[str, ...]:  # fmt: skip
    """The trained models of which a record holds at these settings, on at least so many samples.

    Args:
        known: the record, if there is one.
        settings: of each technique.
        hashes: of the models' weights, by model.
        parts: hashes of the trained parts, by model and part.
        samples: of each task.
    """
    if known is None or {each.technique: each.setting for each in known.members} != settings:
        return ()
    fewest = {name: min(each.samples for each in known.tasks if each.checkpoint == name) for name in known.checkpoints}
    return tuple(
        name for name, hash_ in known.checkpoints.items()
        if hashes.get(name) == hash_ and fewest[name] >= samples
        and all(known.parts.get(id_, now) == now for id_, now in parts.get(name, {}).items())
    )  # fmt: skip


def known_alone(
    stacks: Iterable[MeasuredStack], technique: str, setting: Mapping[str, Setting], checkpoint: str, hash_: str,
    parts: Mapping[str, str], tasks: Collection[str], samples: int,
) -> JointAnswer | None:  # fmt: skip
    """What a technique alone answers rightly, where records of stacks say it of a model and all these tasks.

    Args:
        stacks: the records.
        technique: the technique.
        setting: its setting.
        checkpoint: the model.
        hash_: of the model's weights.
        parts: hashes of its trained parts.
        tasks: the tasks.
        samples: of each task.
    """
    rows = {
        each.task: TaskAnswers(task=each.task, full=each.full, right=each.alone[at])
        for stack in stacks
        if stack.checkpoints.get(checkpoint) == hash_
        and all(stack.parts.get(id_, now) == now for id_, now in parts.items())
        for at, member in enumerate(stack.members)
        if member.technique == technique and member.setting == setting
        for each in stack.tasks
        if (each.checkpoint, each.samples) == (checkpoint, samples)
    }
    if not rows.keys() >= set(tasks):
        return None
    return JointAnswer(techniques=(technique,), checkpoint=checkpoint, tasks=tuple(rows[each] for each in tasks))


def compared(joint: JointAnswer, alone: Sequence[JointAnswer], samples: int) -> tuple[StackTask, ...]:
    """The tasks that were run with each technique alone and with all, question by question."""
    rows = [{each.task: each.right for each in answer.tasks} for answer in alone]
    return tuple(
        StackTask(
            checkpoint=joint.checkpoint, task=each.task, samples=samples, full=each.full,
            alone=tuple(row[each.task] for row in rows), joint=each.right,
        )
        for each in joint.tasks
        if all(each.task in row for row in rows)
    )  # fmt: skip


def record(
    settings: Mapping[str, Mapping[str, Setting]], tasks: tuple[StackTask, ...], hash_: str, root: Path, device: str,
    why: tuple[str, ...], joint: JointAnswer, earlier: MeasuredStack | None = None, models: Collection[str] = (),
) -> MeasuredStack:  # fmt: skip
    """The record of a stack, with what was run on one model.

    Args:
        settings: of each technique, in pipeline order.
        tasks: what was answered rightly.
        hash_: of the model's weights.
        root: the checkout.
        device: where it ran.
        why: why they were run together.
        joint: what came of the run of all, for the tasks that were refused and the trained parts.
        earlier: the record so far.
        models: those of its models of which it still holds; the others are left out.
    """
    models = {*models} - {joint.checkpoint}
    rows = [*tasks, *(each for each in (earlier.tasks if earlier else ()) if each.checkpoint in models)]
    order = [*dict.fromkeys(each.task for each in rows)]
    rows.sort(key=lambda each: (order.index(each.task), each.checkpoint))
    checkpoints = {name: earlier.checkpoints[name] for name in models} if earlier else {}
    parts = {id_: sha for id_, sha in (earlier.parts if earlier else {}).items() if _owner(id_, models)}
    shares, together = kept(rows)
    found = departure(rows)
    members = tuple(
        Member(technique=id_, setting=dict(setting), kept=share)
        for (id_, setting), share in zip(settings.items(), shares, strict=True)
    )
    return MeasuredStack(
        id=stack_id(settings), **run_fields(root, device),
        checkpoints=dict(sorted((checkpoints | {joint.checkpoint: hash_}).items())), members=members, why=why,
        kept=together, departure=found, verdict=found.verdict, tasks=tuple(rows), refused=joint.refused,
        parts=parts | joint.parts,
    )  # fmt: skip


def _owner(part: str, models: Iterable[str]) -> str | None:
    """The model that a part belongs to."""
    return next((name for name in models if part.startswith(f"{name}-")), None)


def write(root: Path, stack: MeasuredStack) -> Path:
    """Write a record under catalog/stacks, and return its path.

    Raises:
        AtlasError: it cannot be written.
    """
    path = root / STACKS / f"{stack.id}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, as_yaml(stack, "stack", width=400))
    return path
