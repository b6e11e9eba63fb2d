"""What techniques cost in answers together, against what each costs alone, on the lab's models. Written by the tool."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from lvlm_atlas.schema.curve import Number, Ratio
from lvlm_atlas.schema.lab_run import LabRun
from lvlm_atlas.schema.record import ID_PATTERN, Id, Record, Ref, Setting, Text

StackId = Annotated[str, StringConstraints(pattern=ID_PATTERN, max_length=256)]
"""Ids of the techniques, ascending, joined by `.`, which no id of a technique has."""
Answers = Annotated[str, Field(pattern="^[01]+$")]
"""A digit for each question, sample by sample: 1 where the answer is right."""
Share = Annotated[float, Field(ge=-100, le=100)]
Verdict = Literal["additive", "redundant", "harmful"]
"""How a joint loss stands to the sum of the losses: no difference is seen, it is less, or more."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Member(Record):
    """A technique of a stack."""

    technique: Annotated[Id, Ref("technique")]
    """The technique."""
    setting: dict[str, Setting]
    """The parameters it ran with, alone and together; those left out have their defaults."""
    kept: Ratio
    """Rightly answered with it alone over without, mean over tasks and models."""


class StackTask(Record):
    """One task on one trained model, the same questions with each technique alone and with all."""

    checkpoint: Id
    """The model."""
    task: Id
    """The task."""
    samples: Number
    """Samples; each has as many questions as the others."""
    full: Answers
    """Without techniques."""
    alone: tuple[Answers, ...]
    """With each technique alone, in the order of `members`."""
    joint: Answers
    """With all of them."""


class Departure(Record):
    """Joint loss less the sum of the losses, as a share of the answers that are right without techniques."""

    value: Share
    """Mean over tasks and models; above 0 more is lost together."""
    low: Share
    """Where its 95 % interval begins."""
    high: Share
    """Where it ends."""

    @property
    def verdict(self) -> Verdict:
        """What the interval says: whether it lies on one side of 0."""
        return "harmful" if self.low > 0 else "redundant" if self.high < 0 else "additive"


class MeasuredStack(LabRun):
    """Techniques in one stack."""

    id: StackId
    """Also the file's name."""
    members: tuple[Member, ...] = Field(min_length=2)
    """The techniques, in pipeline order."""
    why: tuple[Text, ...] = ()
    """Why these were run together."""
    kept: Ratio
    """Rightly answered with all of them over without, mean over tasks and models."""
    departure: Departure
    """How far the joint loss is from the sum."""
    verdict: Verdict
    """What that amounts to."""
    tasks: tuple[StackTask, ...] = Field(min_length=1)
    """Tasks that each of them changes anything of."""
    refused: dict[Id, Text] = Field(default_factory=dict)
    """Tasks that they decline together, with what is said."""

    @property
    def techniques(self) -> tuple[str, ...]:
        """Ids of its techniques, in pipeline order."""
        return tuple(each.technique for each in self.members)

    @property
    def questions(self) -> int:
        """Questions asked, each of them once with each technique and once with all."""
        return sum(len(each.full) for each in self.tasks)
