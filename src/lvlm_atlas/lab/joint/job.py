"""Asks one of the lab's models with techniques together, or one alone at the same setting; a worker process does it."""

from __future__ import annotations

from pydantic import Field

from lvlm_atlas.lab.built import built, forget
from lvlm_atlas.lab.curves.asking import ask, to_calibrate
from lvlm_atlas.lab.curves.curve import Sat, equipment_of, sat_of, tasks_of_model
from lvlm_atlas.lab.tasks.task import TASKS
from lvlm_atlas.reference.lvlm import LVLM
from lvlm_atlas.reference.modules.kept import random_weights
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.schema.record import Id, Record, Setting
from lvlm_atlas.schema.technique import Technique


class JointJob(Record):
    """Techniques to run in one stack; one alone is a stack too."""

    techniques: tuple[Technique, ...]
    """In pipeline order."""
    settings: tuple[dict[str, Setting], ...]
    """Of each."""
    root: str
    """Where the trained models lie."""
    checkpoint: Id
    """Which of them."""
    samples: int
    """Samples of each task."""
    tasks: tuple[str, ...]
    device: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of its techniques."""
        return tuple(each.id for each in self.techniques)


class TaskAnswers(Record):
    """What was answered rightly of a task: a digit for each question."""

    task: str
    full: str
    """Without techniques."""
    right: str
    """With them."""


class JointAnswer(Record):
    """What came of a job."""

    techniques: tuple[str, ...]
    checkpoint: str
    """The model."""
    tasks: tuple[TaskAnswers, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    """Tasks that the techniques decline, with what is said."""
    parts: dict[str, str] = Field(default_factory=dict)
    """Trained parts that they used, and the hashes of their weights."""
    failed: str | None = None
    """What went wrong; None: nothing."""


def prepare(job: JointJob) -> None:
    """Load the model and ask it everything without techniques, which all jobs of that model share."""
    equipment_of(job.root, job.checkpoint, job.device)
    for task in tasks_of_model(job.root, job.checkpoint):
        sat_of(job.root, job.checkpoint, task, job.samples, job.device)


def reset() -> None:
    """Forget what was calibrated."""
    forget()


def carry_out(job: JointJob) -> JointAnswer:
    """Ask all questions of the job's tasks."""
    try:
        return _carried_out(job)
    except Exception as error:  # noqa: BLE001 - whatever a reference raises is its result
        return lost(job, f"{type(error).__name__}: {error}")


def _carried_out(job: JointJob) -> JointAnswer:
    answers: list[TaskAnswers] = []
    refused: dict[str, str] = {}
    equipment = equipment_of(job.root, job.checkpoint, job.device)
    model = equipment.model_for(need for each in job.techniques for need in each.needs)
    equipment.equip(model)
    for task in job.tasks:
        try:
            answers.append(_answers(job, model, task))
        except Refusal as error:
            refused[task] = str(error)
    if random_weights(model):
        raise ValueError(f"they bring weights that nobody trained for {job.checkpoint}")
    parts = {part.id: part.sha256 for part in equipment.used(model)}
    return JointAnswer(
        techniques=job.ids, checkpoint=job.checkpoint, tasks=tuple(answers), refused=refused, parts=parts
    )


def _answers(job: JointJob, model: LVLM, task: str) -> TaskAnswers:
    sat = sat_of(job.root, job.checkpoint, task, job.samples, job.device)
    right = [each for sitting in sat for each in _right(job, model, task, sitting)]
    full = [each for sitting in sat for each in sitting.full.right]
    return TaskAnswers(task=task, full=_digits(full), right=_digits(right))


def _right(job: JointJob, model: LVLM, task: str, sat: Sat) -> tuple[bool, ...]:
    stack = zip(job.techniques, job.settings, strict=True)
    made = [built(str(each.reference), setting, model, to_calibrate) for each, setting in stack]
    return ask(model, TASKS[task], sat.sample, lambda: made).right


def _digits(right: list[bool]) -> str:
    return "".join(str(int(each)) for each in right)


def lost(job: JointJob, problem: str) -> JointAnswer:
    """The answer of a job whose process gave none."""
    return JointAnswer(techniques=job.ids, checkpoint=job.checkpoint, failed=problem)


def about(answer: JointAnswer, job: JointJob) -> bool:
    """Whether an answer is one to a job."""
    return (answer.techniques, answer.checkpoint) == (job.ids, job.checkpoint)
