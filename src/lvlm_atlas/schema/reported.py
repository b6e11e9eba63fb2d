"""Numbers that a source prints of a technique: an experiment, with every score, time and size it gives."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lvlm_atlas.schema.record import Id, Record, Ref, Setting, Source, Text

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

RELATIVE = ("×", "% less", "% more", "% of baseline")
"""Units of a number that is printed relative to the unmodified model.

`×`: so many times better, whichever direction is good. `% less`, `% more`: the change in percent. `% of baseline`: what
is left, in percent.
"""
NOT_NAMED = "not named"
"""Stands for the name of a model that a source does not say."""
SAME_DIMENSION = (
    ("s", "ms"), ("s/token", "ms/token"), ("byte", "MB", "MiB", "GB", "GiB"), ("FLOP", "GFLOP", "TFLOP"),
    ("1", "%"),
)  # fmt: skip
"""Units in which sources print one and the same metric."""


def units_of(unit: str) -> tuple[str, ...]:
    """The absolute units in which a measure of that unit may be printed."""
    return next((units for units in SAME_DIMENSION if unit in units), (unit,))


class Result(Record):
    """One number: a score on a benchmark, or a metric of speed, memory or work."""

    benchmark: Annotated[Id, Ref("benchmark")] | None = None
    """The benchmark that was scored; a result has this or `metric`."""
    metric: Annotated[Id, Ref("metric")] | None = None
    """The metric that was measured or counted; a result has this or `benchmark`."""
    value: Number
    """The number as printed, with the technique."""
    qualifier: Literal["about", "up-to", "at-least"] | None = None
    """How the source qualifies the number; absent means it is printed as it was measured."""
    baseline: Number | None = None
    """The number of the unmodified model in the same source, in the same unit."""
    unit: Text | None = None
    """Unit of both numbers, as printed; absent means that of the benchmark or metric. Relative to the unmodified model:
    `×` (times better), `% less`, `% more` or `% of baseline`."""

    data: Text | None = None
    """Input on which a metric was measured, or the part of a benchmark that was used, as far as the source says."""

    @model_validator(mode="after")
    def _measures_one_thing(self) -> Self:
        if (self.benchmark is None) == (self.metric is None):
            given = "neither `benchmark` nor" if self.benchmark is None else "both `benchmark` and"
            raise ValueError(f"has {given} `metric`; name the one that the number is of")
        if self.unit in RELATIVE and self.baseline is not None:
            raise ValueError(f"is relative ({self.unit}) and has a `baseline` too; keep one of the two")
        return self

    @property
    def measure(self) -> str:
        """Id of the benchmark or metric."""
        return self.benchmark or self.metric or ""


class Reported(Record):
    """An experiment of a source: one model in one setting, and the numbers printed of it."""

    model: Annotated[Id, Ref("model")] | None = None
    """The model, by its id in the catalog; an experiment has this or `model_name`."""
    model_name: Text | None = None
    """The model as the source prints it, where the catalog lacks it; `not named` where the source names none."""
    setting: dict[str, Setting] = Field(default_factory=dict)
    """The parameters that the source states, by their names in this entry."""
    tokens_kept: Positive | None = None
    """Vision tokens of an image or video that are kept, where the source states their number; a mean may be broken."""
    tokens_full: Positive | None = None
    """Vision tokens that the unmodified model has there."""
    share_kept: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the vision tokens kept, where the source states no number."""
    device: Text | None = None
    """Hardware, as printed; absent means that the source does not say or that it does not matter."""
    results: tuple[Result, ...] = Field(min_length=1)
    """The numbers."""
    source: Source
    """Where they are printed."""
    note: Text | None = None
    """What else decides the numbers: draft model, frames, precision, how the authors ran it."""

    @model_validator(mode="after")
    def _names_one_model(self) -> Self:
        if (self.model is None) == (self.model_name is None):
            given = "neither `model` nor" if self.model is None else "both `model` and"
            raise ValueError(f"has {given} `model_name`; give the catalog's id, or else the name as printed")
        return self

    @model_validator(mode="after")
    def _counts_tokens_once(self) -> Self:
        if self.tokens_kept is not None and self.share_kept is not None:
            raise ValueError("has both `tokens_kept` and `share_kept`; give the number, with `tokens_full`")
        if self.tokens_full is not None and self.tokens_kept is None:
            raise ValueError("has `tokens_full` without `tokens_kept`; add how many of them are kept")
        if self.tokens_kept and self.tokens_full and self.tokens_kept > self.tokens_full:
            raise ValueError(f"keeps {self.tokens_kept:g} of {self.tokens_full:g} tokens; correct one of the two")
        return self

    @property
    def model_given(self) -> str:
        """The model's id in the catalog, or its name as printed."""
        return self.model or self.model_name or ""
