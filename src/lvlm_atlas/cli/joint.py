"""Runs techniques together on the lab's models with progress, and writes a record a stack."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lvlm_atlas import load
from lvlm_atlas.atlas.root import authored_root
from lvlm_atlas.cli.lab import chosen_of, need
from lvlm_atlas.cli.progress import progress
from lvlm_atlas.cli.tensors import need_torch
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.interest import LEAST, Interesting, interesting, planned, settings
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.schema.curve import Curve
from lvlm_atlas.schema.record import Setting
from lvlm_atlas.schema.stack import MeasuredStack
from lvlm_atlas.schema.technique import Technique
from lvlm_atlas.specs.answers import Kept, tasks_of
from lvlm_atlas.specs.joint import stack_id

if TYPE_CHECKING:  # the lab needs torch
    from lvlm_atlas.lab.joint.job import JointAnswer, JointJob


def run_stacks(
    root: Path, ids: Sequence[str], limit: int, samples: int, tasks: Sequence[str], device: str, *, again: bool
) -> int:  # fmt: skip
    """Run the most interesting stacks, write a record of each, and return how many failed.

    Args:
        root: the root.
        ids: techniques of which each stack must have one; none: all.
        limit: pairs to run at most, those that have a record among them.
        samples: held-back samples of each task.
        tasks: only these tasks, and no record; none: all.
        device: where to run.
        again: whether to run those again that have a record.

    Raises:
        AtlasError: a name is unknown, or there are no pictures, no trained models or no such stacks.
    """
    need()
    need_torch("the lab needs", device)
    from lvlm_atlas.lab.isolation import Bounds, in_processes
    from lvlm_atlas.lab.joint.job import JointAnswer, about, lost
    from lvlm_atlas.lab.parts.part import known as known_parts
    from lvlm_atlas.lab.photographs.collection import collection
    from lvlm_atlas.lab.tasks.task import TASKS
    from lvlm_atlas.lab.training.checkpoint import known

    own = authored_root(root)
    collection()
    trained = known(root)
    hashes = {name: each.sha256 for name, each in trained.items()}
    parts = {
        name: {part.id: part.sha256 for part in known_parts(root, each).values()} for name, each in trained.items()
    }
    asked = chosen_of("task", tasks, TASKS) if tasks else ()
    planner = Planner(root, _current(load(root), hashes))
    atlas, wanted = planner.kb.atlas, {planner.kb.technique(id_).id for id_ in ids}
    chosen = settings(planner.kb)
    if bare := sorted(wanted - atlas.curves.keys()):
        raise AtlasError(f"{', '.join(bare)}: no curve of these models; `lvlm-atlas lab run {bare[0]}` makes one")
    if barred := sorted(wanted - chosen.keys()):
        raise AtlasError(
            f"{', '.join(barred)}: no setting of its curve keeps {LEAST:.0%} of the answers and spares something; "
            f"name others, such as {', '.join([*chosen][:3])}"
        )
    stacks = interesting(planner.kb, planned(planner), limit, wanted)
    able = {name: [task for task in each.tasks if not asked or task in asked] for name, each in trained.items()}
    run = _Run(
        own, chosen, hashes, samples, able, device, atlas.curves, parts, {**atlas.stacks}, again=again,
        recorded=not asked,
    )  # fmt: skip
    pending = {name: [each for each in stacks if run.lacks(each, name)] for name in trained}
    count = sum(name in each.checkpoints for each in stacks for name in trained)
    with progress(f"stacks and models on {device}", count, count - sum(map(len, pending.values()))) as advance:
        try:
            for name, theirs in pending.items():
                for answer in in_processes(
                    run.jobs(name, theirs), "lvlm_atlas.lab.joint.job", JointAnswer, lost, about, device=device,
                    bounds=Bounds(time_s=3_600.0),
                ):  # fmt: skip
                    for said in run.take(answer):
                        advance(said)
        except KeyboardInterrupt:
            typer.echo("interrupted: records that are written stay, and the same command goes on", err=True)
            raise
    if tasks:
        typer.echo("not recorded: a record holds all tasks", err=True)
    return run.failed


def _current(kb: KnowledgeBase, hashes: Mapping[str, str]) -> KnowledgeBase:
    """The knowledge base with the curves of these trained models alone."""
    curves = {id_: each for id_, each in kb.atlas.curves.items() if each.checkpoints.items() <= hashes.items()}
    return KnowledgeBase(replace(kb.atlas, curves=curves))


@dataclass
class _Run:
    """What was answered so far, and what waits for it."""

    root: Path
    chosen: Mapping[str, Kept]
    hashes: Mapping[str, str]
    samples: int
    tasks: Mapping[str, Collection[str]]
    """Those to run on each model."""
    device: str
    curves: Mapping[str, Curve]
    """Those of these models."""
    parts: Mapping[str, Mapping[str, str]]
    """Hashes of trained parts, by model and part."""
    stacks: dict[str, MeasuredStack]
    """The records so far."""
    again: bool
    """Whether what they hold is run again."""
    recorded: bool = True
    """Whether records are written."""
    failed: int = 0
    alone: dict[tuple[str, str], JointAnswer] = field(default_factory=dict)
    """By technique and model."""
    joint: dict[str, JointAnswer] = field(default_factory=dict)
    """Of the model that runs, those that wait for their techniques alone."""
    pending: Mapping[str, Interesting] = field(default_factory=dict)

    def settings(self, stack: Interesting) -> dict[str, dict[str, Setting]]:
        """The setting of each technique of a stack."""
        return {each.id: self.chosen[each.id].setting for each in stack.techniques}

    def holding(self, stack: Interesting) -> tuple[str, ...]:
        """The models of which the stack's record holds."""
        from lvlm_atlas.lab.joint.record import holding

        return holding(self.stacks.get(stack.id), self.settings(stack), self.hashes, self.parts, self.samples)

    def lacks(self, stack: Interesting, model: str) -> bool:
        """Whether a stack is to be run on a model."""
        if model not in stack.checkpoints or not self._tasks(model, stack.tasks):
            return False
        return self.again or not self.recorded or model not in self.holding(stack)

    def jobs(self, model: str, stacks: Sequence[Interesting]) -> Iterator[JointJob]:
        """Each stack on a model, after those of its techniques alone that no record tells of."""
        self.pending, self.joint = {each.id: each for each in stacks}, {}
        begun = {*self.alone}
        for stack in stacks:
            for each in stack.techniques:
                if (each.id, model) not in begun and not self._recall(each.id, model):
                    yield self._job(model, (each,), tasks_of(self.curves[each.id]))
                begun.add((each.id, model))
            yield self._job(model, stack.techniques, stack.tasks)

    def take(self, answer: JointAnswer) -> Iterator[str]:
        """Take an answer, write what it completes, and say what came of each stack that is done."""
        if len(answer.techniques) == 1:
            self.alone[answer.techniques[0], answer.checkpoint] = answer
        else:
            self.joint[stack_id(answer.techniques)] = answer
        for id_, joint in [*self.joint.items()]:
            keys = [(each, joint.checkpoint) for each in joint.techniques]
            if all(each in self.alone for each in keys):
                del self.joint[id_]
                yield self._said(self.pending[id_], joint, [self.alone[each] for each in keys])

    def _recall(self, technique: str, model: str) -> bool:
        """Take what a technique alone answered from records, where they say it of all that is asked."""
        from lvlm_atlas.lab.joint.record import known_alone

        tasks = self._tasks(model, tasks_of(self.curves[technique]))
        answer = None if self.again else known_alone(
            self.stacks.values(), technique, self.chosen[technique].setting, model, self.hashes[model],
            self.parts[model], tasks, self.samples,
        )  # fmt: skip
        if answer:
            self.alone[technique, model] = answer
        return answer is not None

    def _job(self, model: str, techniques: tuple[Technique, ...], tasks: Iterable[str]) -> JointJob:
        from lvlm_atlas.lab.joint.job import JointJob

        return JointJob(
            techniques=techniques, settings=tuple(self.chosen[each.id].setting for each in techniques),
            root=str(self.root), checkpoint=model, samples=self.samples, tasks=self._tasks(model, tasks),
            device=self.device,
        )  # fmt: skip

    def _tasks(self, model: str, tasks: Iterable[str]) -> tuple[str, ...]:
        return tuple(task for task in tasks if task in self.tasks[model])

    def _said(self, stack: Interesting, joint: JointAnswer, alone: Sequence[JointAnswer]) -> str:
        from lvlm_atlas.lab.joint.record import compared, record, write

        label = f"{' + '.join(joint.techniques)} on {joint.checkpoint}"
        if problem := next((each.failed for each in (joint, *alone) if each.failed), None):
            self.failed += 1
            return f"{label} FAILED: {problem}"
        tasks = compared(joint, alone, self.samples)
        if not tasks:
            return f"{label}: {next(iter(joint.refused.values()), 'no task in common')}"
        made = record(
            self.settings(stack), tasks, self.hashes[joint.checkpoint], self.root, self.device, stack.why, joint,
            self.stacks.get(stack.id), self.holding(stack),
        )  # fmt: skip
        if self.recorded:
            write(self.root, made)
            self.stacks[stack.id] = made
        each, models = made.departure, len(made.checkpoints)
        return (
            f"{label}: {made.verdict}, {100 * each.value:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})"
            f"{f', with {models - 1} more' if models > 1 else ''}"
        )
