"""What a technique costs in answers, over its main knob, on the lab's trained models. Written by the tool."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from lvlm_atlas.limits import MOST_COUNT
from lvlm_atlas.schema.lab_run import LabRun
from lvlm_atlas.schema.record import Id, Record, Ref, Setting, Text

Number = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Ratio = Annotated[float, Field(ge=0, le=MOST_COUNT)]
Cost = Literal["pixels", "frames", "encoder_tokens", "vision_tokens", "score_entries", "kv_byte", "kv_read",
               "target_passes"]  # fmt: skip
COST: tuple[Cost, ...] = get_args(Cost)
"""What a run is counted to cost, each as a share of the same run without techniques."""


class CurvePoint(Record):
    """One setting on one task."""

    setting: dict[str, Setting]
    """The parameters it ran with; those left out have their defaults."""
    cost: dict[Cost, Ratio]
    """Counts of the trace over those without techniques, mean over samples; those left out are 1."""
    right: Number
    """Questions answered rightly."""
    lost: Number
    """Questions that the model answers rightly without the technique, and wrongly with it."""
    gained: Number
    """Those the other way round."""
    hard_right: Number
    """Questions answered rightly among those that the model gets wrong at half the resolution, and right at full."""


class TaskCurve(Record):
    """One task on one trained model."""

    checkpoint: Id
    """The model."""
    task: Id
    """The task."""
    of: Number
    """Questions asked."""
    full: Number
    """Questions that the model answers rightly without techniques."""
    hard: Number
    """Questions among these that it gets wrong at half the resolution."""
    points: tuple[CurvePoint, ...] = Field(min_length=1)
    """Settings, the main cost falling."""


class Curve(LabRun):
    """One technique, alone."""

    id: Annotated[Id, Ref("technique")]
    """The technique; also the file's name."""
    samples: Annotated[int, Field(ge=1, le=MOST_COUNT)]
    """Samples of each task."""
    untuned: bool = False
    """Whether the paper trains the model for the technique, and here it ran on the models as they are."""
    knob: Text | None = None
    """The parameter that was moved; absent: none changes what a run costs."""
    main_cost: Cost
    """What it changes most."""
    tasks: tuple[TaskCurve, ...] = ()
    """Tasks that it changes anything of."""
    refused: dict[Id, Text] = Field(default_factory=dict)
    """Tasks that it declines, with what it says."""
    idle: tuple[Id, ...] = ()
    """Tasks on which it changes nothing."""
    declined: dict[Id, Text] = Field(default_factory=dict)
    """Trained models that it declines, with what it says."""
