"""Runs of stacks whose trace is held against what their entries declare; job and answer travel as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lvlm_atlas.schema.effect import Overhead
from lvlm_atlas.schema.record import Record, Setting
from lvlm_atlas.schema.technique import Technique


class Shape(Record):
    """A model and a request."""

    preset: str
    """Configuration of the reference LVLM."""
    frames: int
    text_tokens: int
    output_tokens: int
    """Tokens asked for."""
    temperature: float = 0.0
    """0 decodes greedily."""
    rounds: int = 1
    """Questions of a session, each of which brings frames and text of its own; all stay in the cache."""
    on_device: bool = False
    """Whether it runs in bfloat16 as on a GPU, whichever there is; see `lvlm_atlas.lab.device`."""

    def __str__(self) -> str:
        rounds = f"{self.rounds} rounds of " if self.rounds > 1 else ""
        request = f"{self.frames} frames, {self.text_tokens} text, {self.output_tokens} out"
        drawn = f", temperature {self.temperature:g}" if self.temperature else ""
        there = ", as on a GPU" if self.on_device else ""
        return f"{self.preset}, {rounds}{request}{drawn}{there}"


class Item(Record):
    """A technique of a stack."""

    technique: Technique
    places: tuple[int, ...]
    """Where in the pipeline each of its effects happens."""


class Plan(Record):
    """One run."""

    settings: tuple[dict[str, Setting], ...]
    """The setting of each technique."""
    shape: Shape
    spares: tuple[tuple[dict[str, Setting], ...], ...] = ()
    """Settings to run in place of these, one after another, where the reference refuses."""


class StackJob(Record):
    """Runs of one stack."""

    items: tuple[Item, ...] = Field(min_length=1)
    """The stack, in order."""
    plans: tuple[Plan, ...]
    dtype: Literal["float32", "bfloat16", "float16"]
    """Type of weights and activations."""
    device: str
    """`cpu` or `cuda`."""
    enough: int | None = None
    """How many runs must go through; the plans after these are left out."""
    ablate: bool = True
    """Whether to find out which declarations each run needs to be explained: a prediction for each."""


class Row(Record):
    """One measure of one run."""

    measure: str
    """A quantity of the taxonomy, perhaps with `: detail`."""
    declared: tuple[tuple[float, float], ...]
    """Lower and upper bound; one pair, or one a layer."""
    observed: tuple[float, ...] | None
    """What the trace counted; None if it does not count that."""
    holds: bool

    @property
    def quantity(self) -> str:
        """The quantity of the taxonomy."""
        return self.measure.split(":")[0]


class Part(Record):
    """One declaration of a technique in the stack."""

    item: int
    """Index of the technique."""
    kind: Literal["effects", "overheads"]
    index: int


COUNTED_COSTS = ("attention_rows", "host_syncs")
"""Costs of overheads that runs are held against; the others are declared only."""


def counted(overhead: Overhead) -> list[str]:
    """The costs of an overhead that runs are held against."""
    return [name for name in COUNTED_COSTS if getattr(overhead, name) is not None]


class Outcome(Record):
    """What came of one plan."""

    plan: Plan
    refused: str | None = None
    """Why the reference refused to run; nothing else is then set."""
    crashed: str | None = None
    """The error of another kind that ended the run."""
    rows: tuple[Row, ...] = ()
    bites: tuple[Part, ...] = ()
    """Declarations without which the others would not explain the trace."""


class StackAnswer(Record):
    """What came of a job."""

    job: StackJob
    outcomes: tuple[Outcome, ...] = ()
    """One a plan, and one for each refusal that a spare setting was run in place of."""
    problem: str | None = None
    """What became of the process that should have answered."""


def about(answer: StackAnswer, job: StackJob) -> bool:
    """Whether an answer is one to a job."""
    return answer.job == job


def lost(job: StackJob, problem: str) -> StackAnswer:
    """The answer of a job whose process gave none."""
    return StackAnswer(job=job, problem=problem)
