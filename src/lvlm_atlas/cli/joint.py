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
    from lvlm_atlas.lab.joint.record import up_to_date
    from lvlm_atlas.lab.parts.part import known as known_parts
    from lvlm_atlas.lab.photographs.collection import collection
    from lvlm_atlas.lab.tasks.task import TASKS
    from lvlm_atlas.lab.training.checkpoint import known

    own = authored_root(root)
    collection()
    trained = known(root)
    hashes = {name: each.sha256 for name, each in trained.items()}
    parts = {part.id: part.sha256 for each in trained.values() for part in known_parts(root, each).values()}
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
    run = _Run(own, chosen, hashes, samples, asked, device, atlas.curves, parts)
    pending = [
        each
        for each in stacks
        if again
        or tasks
        or not up_to_date(atlas.stacks, run.settings(each), run.models(each.checkpoints), parts, samples)
    ]
    if not again:
        run.recall(atlas.stacks.values())
    with progress(f"stacks on {device}", len(stacks), len(stacks) - len(pending)) as advance:
        try:
            for answer in in_processes(
                run.jobs(pending), "lvlm_atlas.lab.joint.job", JointAnswer, lost, about, device=device,
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
    tasks: Collection[str]
    """Only these; none: all."""
    device: str
    curves: Mapping[str, Curve]
    """Those of these models."""
    parts: Mapping[str, str]
    """Trained parts, with the hashes of their weights."""
    failed: int = 0
    alone: dict[str, JointAnswer] = field(default_factory=dict)
    joint: dict[str, tuple[Interesting, JointAnswer]] = field(default_factory=dict)

    def models(self, names: Iterable[str]) -> dict[str, str]:
        """Trained models with the hashes of their weights."""
        return {name: self.hashes[name] for name in names}

    def settings(self, stack: Interesting) -> dict[str, dict[str, Setting]]:
        """The setting of each technique of a stack."""
        return {each.id: self.chosen[each.id].setting for each in stack.techniques}

    def recall(self, stacks: Collection[MeasuredStack]) -> None:
        """Take what techniques alone answered from records, where they say it of all that is asked."""
        from lvlm_atlas.lab.joint.record import known_alone

        for id_, each in self.chosen.items():
            curve = self.curves[id_]
            tasks = [task for task in tasks_of(curve) if not self.tasks or task in self.tasks]
            models = self.models(curve.checkpoints)
            if answer := known_alone(stacks, id_, each.setting, models, self.parts, tasks, self.samples):
                self.alone[id_] = answer

    def jobs(self, stacks: Sequence[Interesting]) -> Iterator[JointJob]:
        """Each stack after those of its techniques alone that were not run yet."""
        from lvlm_atlas.lab.joint.job import JointJob

        self.pending = {each.id: each for each in stacks}
        begun = {*self.alone}
        for stack in stacks:
            fresh = [each for each in stack.techniques if each.id not in begun]
            begun |= {each.id for each in fresh}
            curves = [self.curves[each.id] for each in fresh]
            runs = [
                ((each,), tasks_of(curve), tuple(curve.checkpoints)) for each, curve in zip(fresh, curves, strict=True)
            ]
            for techniques, tasks, models in [*runs, (stack.techniques, stack.tasks, stack.checkpoints)]:
                yield JointJob(
                    techniques=techniques, settings=tuple(self.chosen[each.id].setting for each in techniques),
                    root=str(self.root), checkpoints=models, samples=self.samples,
                    tasks=tuple(task for task in tasks if not self.tasks or task in self.tasks), device=self.device,
                )  # fmt: skip

    def take(self, answer: JointAnswer) -> Iterator[str]:
        """Take an answer, write what it completes, and say what came of each stack that is done."""
        if len(answer.techniques) == 1:
            self.alone[answer.techniques[0]] = answer
        else:
            id_ = stack_id(answer.techniques)
            self.joint[id_] = (self.pending[id_], answer)
        for id_, (stack, joint) in [*self.joint.items()]:
            if all(each.id in self.alone for each in stack.techniques):
                del self.joint[id_]
                yield self._said(stack, joint)

    def _said(self, stack: Interesting, joint: JointAnswer) -> str:
        from lvlm_atlas.lab.joint.record import compared, record, write

        alone = [self.alone[each.id] for each in stack.techniques]
        label = " + ".join(each.id for each in stack.techniques)
        if problem := next((each.failed for each in (joint, *alone) if each.failed), None):
            self.failed += 1
            return f"{label} FAILED: {problem}"
        tasks = compared(joint, alone, self.samples)
        if not tasks:
            return f"{label}: {next(iter(joint.refused.values()), 'no task in common')}"
        settings = self.settings(stack)
        models = self.models(stack.checkpoints)
        made = record(settings, tasks, models, self.root, self.device, stack.why, joint)
        if not self.tasks:
            write(self.root, made)
        each = made.departure
        return f"{label}: {made.verdict}, {100 * each.value:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})"
