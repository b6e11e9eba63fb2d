"""Runs one technique over its knob on every task and trained model; a worker process does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from lvlm_atlas.lab.built import built, forget
from lvlm_atlas.lab.curves.asking import Answered, ask, to_calibrate
from lvlm_atlas.lab.curves.cost import Costs, cost, ratios, total
from lvlm_atlas.lab.curves.knob import Knob, Settings, knob, recorded
from lvlm_atlas.lab.parts.part import Equipment, equipment
from lvlm_atlas.lab.tasks.sample import Sample
from lvlm_atlas.lab.tasks.task import TASKS, Task
from lvlm_atlas.lab.training.checkpoint import known, load
from lvlm_atlas.reference.lvlm import LVLM
from lvlm_atlas.reference.modules.kept import random_weights
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.schema.curve import Curve, CurvePoint, TaskCurve
from lvlm_atlas.schema.record import Record
from lvlm_atlas.schema.technique import Technique

PROBES = ("where", "caption", "needle", "burst")
"""Tasks with one picture, a long answer, several pictures, and a session: settings are compared on a sample of each."""
UNTRAINED = ("none", "calibration")
"""Kinds of training that ask for no other model: none, and fits that a reference makes itself."""


class CurveJob(Record):
    """A technique to run."""

    technique: Technique
    root: str
    """Where the trained models lie."""
    checkpoints: tuple[str, ...]
    """Which of them."""
    samples: int
    """Samples of each task."""
    tasks: tuple[str, ...]
    device: str
    again: Curve | None = None
    """A curve whose settings to run again; None: the knob is looked for."""


class CurveAnswer(Record):
    """What came of it."""

    technique: str
    knob: str | None = None
    main_cost: str = ""
    tasks: tuple[TaskCurve, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    idle: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    """The trained models that it ran on: those whose parts are trained that it brings along."""
    parts: dict[str, str] = Field(default_factory=dict)
    """Trained parts that it used, and the hashes of their weights."""
    untuned: bool = False
    """Whether the paper trains the model for it, and nothing was trained here; it ran on the models as they are."""
    untrained: bool = False
    """Whether it brings weights of its own, which would be random here; then nothing was run."""
    unsuited: str | None = None
    """Why nothing was run where all its weights are trained."""
    declined: dict[str, str] = Field(default_factory=dict)
    """Models that it declines, with what it says."""
    failed: str | None = None
    """What went wrong; None: nothing."""


@dataclass(frozen=True)
class Sat:
    """A sample, and how the model does on it without techniques."""

    sample: Sample
    full: Answered
    hard: tuple[bool, ...]
    """Of each question, whether the model gets it right, and at half the resolution wrong."""


def prepare(job: CurveJob) -> None:
    """Load the models and ask them everything without techniques, which all jobs share."""
    for checkpoint in job.checkpoints:
        equipment_of(job.root, checkpoint, job.device)
        for task in _serving(job, checkpoint):
            sat_of(job.root, checkpoint, task, job.samples, job.device)
        for task in PROBES:
            sat_of(job.root, checkpoint, task, 1, job.device)


def reset() -> None:
    """Forget what was calibrated."""
    forget()


def carry_out(job: CurveJob) -> CurveAnswer:
    """Find the knob and run the curve."""
    try:
        return _carried_out(job)
    except Exception as error:  # noqa: BLE001 - whatever a reference raises is its result
        return CurveAnswer(technique=job.technique.id, failed=f"{type(error).__name__}: {error}")


def _carried_out(job: CurveJob) -> CurveAnswer:
    technique, first = job.technique, job.checkpoints[0]
    trained = equipment_of(job.root, first, job.device).settings(str(technique.reference))
    found = recorded(job.again) if job.again else knob(technique, lambda at: _probed(job, first, at), trained)
    parts = _trained(job, found) if found else {}
    if not (found and parts) and random_weights(_model(job, first)):
        return CurveAnswer(technique=technique.id, untrained=True)
    setting = found.settings[-1] if found else {}
    others = (name for name in job.checkpoints if name not in parts)
    declined = {name: why for name in others if (why := _refusal(job, name, setting))}
    if not (found and parts):
        why = declined.get(first, "it takes the model, but none of the settings that its entry or its record names")
        return CurveAnswer(technique=technique.id, unsuited=why, declined=declined)
    curves: list[TaskCurve] = []
    refused: dict[str, str] = {}
    idle: list[str] = []
    for name in job.tasks:
        able = [checkpoint for checkpoint in parts if name in _serving(job, checkpoint)]
        for checkpoint in able:
            model = _model(job, checkpoint)
            sat = sat_of(job.root, checkpoint, name, job.samples, job.device)
            if checkpoint == able[0] and _idle(job, model, TASKS[name], sat[0], found):
                idle.append(name)
                break
            points = []
            for setting in found.settings:
                try:
                    points.append(_point(job, model, TASKS[name], sat, setting))
                except Refusal as error:
                    refused[name] = str(error)
            if not points:
                break
            refused.pop(name, None)
            curves.append(TaskCurve(
                checkpoint=checkpoint, task=name, of=sum(len(each.full.right) for each in sat),
                full=sum(sum(each.full.right) for each in sat), hard=sum(sum(each.hard) for each in sat),
                points=tuple(sorted(points, key=lambda point: -point.cost.get(found.main_cost, 1.0))),  # type: ignore[call-overload]
            ))  # fmt: skip
    taken = {id_: hash_ for each in parts.values() for id_, hash_ in each}
    return CurveAnswer(
        technique=technique.id, untuned=not taken and technique.training not in UNTRAINED,
        knob=found.parameter, main_cost=found.main_cost, tasks=tuple(curves), refused=refused,
        idle=tuple(idle), checkpoints=tuple(parts), parts=taken, declined=declined,
    )  # fmt: skip


def _model(job: CurveJob, checkpoint: str) -> LVLM:
    """The model that the technique runs on."""
    return equipment_of(job.root, checkpoint, job.device).model_for(job.technique.needs)


def _serving(job: CurveJob, checkpoint: str) -> tuple[str, ...]:
    """The tasks of a job that a model is good enough at."""
    return tuple(task for task in job.tasks if task in tasks_of_model(job.root, checkpoint))


def _trained(job: CurveJob, found: Knob) -> dict[str, list[tuple[str, str]]]:
    """The parts that a technique takes of each trained model, ids and hashes, in a run of the probes.

    Models are left out where it takes others than of the first, or than in the record that is run again, and where it
    takes weights that nobody trained.
    """
    wanted = {id_.removeprefix(f"{name}-") for name in job.again.checkpoints for id_ in job.again.parts
              if id_.startswith(f"{name}-")} if job.again else None  # fmt: skip
    taken: dict[str, list[tuple[str, str]]] = {}
    for checkpoint in job.checkpoints:
        ran = _probed(job, checkpoint, found.settings[-1]) is not None
        model = _model(job, checkpoint)
        parts = equipment_of(job.root, checkpoint, job.device).used(model)
        kinds = {part.kind for part in parts}
        wanted = kinds if wanted is None else wanted
        if ran and kinds == wanted:
            taken[checkpoint] = [(part.id, part.sha256) for part in parts]
    return taken


def _answered(job: CurveJob, model: LVLM, task: Task, sample: Sample, setting: Settings) -> Answered:
    return ask(model, task, sample, lambda: [built(str(job.technique.reference), setting, model, to_calibrate)])


def _probed(job: CurveJob, checkpoint: str, setting: Settings) -> Costs | None:
    """What a setting costs on the probes together; None where it is refused on all, or takes weights nobody trained."""
    model, costs, full = _model(job, checkpoint), [], []
    equipment_of(job.root, checkpoint, job.device).equip(model)
    for name in PROBES:
        (sat,) = sat_of(job.root, checkpoint, name, 1, job.device)
        try:
            costs.append(cost(_answered(job, model, TASKS[name], sat.sample, setting).trace))
        except (Refusal, ValueError):
            continue
        if random_weights(model):
            return None
        full.append(cost(sat.full.trace))
    return ratios(total(costs), total(full)) if costs else None


def _refusal(job: CurveJob, checkpoint: str, setting: Settings) -> str | None:
    """What a technique says that declines a model at a setting on all probes; None where it takes one."""
    why = None
    for name in PROBES:
        (sat,) = sat_of(job.root, checkpoint, name, 1, job.device)
        try:
            _answered(job, _model(job, checkpoint), TASKS[name], sat.sample, setting)
        except (Refusal, ValueError) as error:
            why = why or str(error)
        else:
            return None
    return why


def _idle(job: CurveJob, model: LVLM, task: Task, sat: Sat, found: Knob) -> bool:
    """Whether the strongest setting changes nothing that is counted of a sample."""
    try:
        answered = _answered(job, model, task, sat.sample, found.settings[-1])
    except Refusal:
        return False
    return cost(answered.trace) == cost(sat.full.trace) and found.parameter is not None


def _point(job: CurveJob, model: LVLM, task: Task, sat: Sequence[Sat], setting: Settings) -> CurvePoint:
    right = lost = gained = hard = 0
    costs = []
    for each in sat:
        answered = _answered(job, model, task, each.sample, setting)
        costs.append(cost(answered.trace))
        for now, before, is_hard in zip(answered.right, each.full.right, each.hard, strict=True):
            right += now
            lost += before and not now
            gained += now and not before
            hard += now and is_hard
    shares = ratios(total(costs), total(cost(each.full.trace) for each in sat))
    changed = {name: round(share, 4) for name, share in shares.items() if round(share, 4) != 1}
    return CurvePoint(
        setting=setting, cost=changed, right=right, lost=lost, gained=gained, hard_right=hard,  # type: ignore[arg-type]
    )  # fmt: skip


@cache
def model_of(root: str, checkpoint: str, device: str) -> LVLM:
    """A trained model."""
    torch.set_num_threads(1)
    return load(Path(root), known(Path(root))[checkpoint], device)


@cache
def tasks_of_model(root: str, checkpoint: str) -> tuple[str, ...]:
    """The tasks that a trained model is good enough at."""
    return known(Path(root))[checkpoint].tasks


@cache
def equipment_of(root: str, checkpoint: str, device: str) -> Equipment:
    """The trained parts of a model."""
    return equipment(Path(root), known(Path(root))[checkpoint], model_of(root, checkpoint, device))


@cache
def sat_of(root: str, checkpoint: str, task: str, samples: int, device: str) -> tuple[Sat, ...]:
    """The first samples of a task, each asked without techniques."""
    model, kind = model_of(root, checkpoint, device), TASKS[task]
    sat = []
    for number in range(samples):
        sample = kind.sample(number)
        full, half = ask(model, kind, sample, tuple), ask(model, kind, sample, tuple, halved)
        hard = tuple(now and not then for now, then in zip(full.right, half.right, strict=True))
        sat.append(Sat(sample, full, hard))
    return tuple(sat)


def halved(frames_F3HW: Tensor) -> Tensor:
    """Frames with half their resolution, at their size."""
    small = interpolate(frames_F3HW, scale_factor=0.5, mode="bilinear", antialias=True)
    return interpolate(small, size=frames_F3HW.shape[-2:], mode="bilinear")


def lost(job: CurveJob, problem: str) -> CurveAnswer:
    """The answer of a job whose process gave none."""
    return CurveAnswer(technique=job.technique.id, failed=problem)


def about(answer: CurveAnswer, job: CurveJob) -> bool:
    """Whether an answer is one to a job."""
    return answer.technique == job.technique.id
