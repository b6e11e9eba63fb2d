"""Kernels measured on one device: how long operators of some shapes take, and the laws that follow."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lvlm_atlas.limits import MOST_COUNT
from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.schema.record import Day, Id, Record, Ref, Source, Text
from lvlm_atlas.schema.runtime import Kernel

MOST_RESIDUAL = 0.15
"""Of the median error of a fit on what it was made to; what is further off is no law."""
Seconds = Annotated[float, Field(gt=0, le=1e5)]
Rate = Annotated[float, Field(gt=0, le=1e18)]
Dtype = Literal["float32", "bfloat16", "float16", "float8"]


class Row(Record):
    """One operator of one shape."""

    op: Kernel
    """The kind of operator."""
    dtype: Dtype
    """Type of the numbers."""
    shape: dict[str, Annotated[int, Field(ge=1, le=MOST_COUNT)]]
    """Its sizes, by what they are of."""
    flop: Annotated[float, Field(ge=0)]
    """Floating-point operations, as the engine counts them."""
    byte: Annotated[float, Field(gt=0)]
    """Bytes moved, as the engine counts them."""
    time_s: Seconds
    """Median time of one run."""
    spread: Annotated[float, Field(ge=0)] | None = None
    """Distance of the quartiles of those times, over the median; absent: its source does not say."""
    runs: Annotated[int, Field(ge=1)] | None = None
    """How many runs were timed; absent alike."""


class KernelLaw(Record):
    """What kernels of a kind reach: time = max(flop / flop_s, byte / byte_s) + start."""

    op: Kernel
    """The kind of operator."""
    dtype: Dtype
    """Type of the numbers."""
    flop_s: Rate
    """Arithmetic reached."""
    byte_s: Rate
    """Memory traffic reached."""
    start_us: Annotated[float, Field(ge=0, le=1e6)]
    """Microseconds that each kernel takes on top."""
    rows: Annotated[int, Field(ge=1)]
    """Rows that it was fitted to."""
    residual: Annotated[float, Field(ge=0)]
    """Median of |predicted over measured - 1| on them."""


class Calibration(Record):
    """One run of the tool over the kernels of a device, or a table of them that somebody published."""

    id: Id
    """Permanent id, equal to the file's name."""
    kind: Literal["calibration"]
    """What was measured."""
    date: Day
    """Day of the run, or of the table."""
    version: str | None = None
    """Version of lvlm-atlas; absent: it did not run here."""
    machine: Machine | None = None
    """Where it ran; absent: as `source` says."""
    source: Source | None = None
    """Where the times are printed; absent: they were measured by this tool."""
    notes: Text | None = None
    """What a reader should know besides."""
    hardware: Annotated[Id, Ref("device")] | None = None
    """The device's record, whose peaks shares are of; absent: there is none, as of a processor."""
    rows: tuple[Row, ...] = Field(min_length=1)
    """What was measured."""
    laws: tuple[KernelLaw, ...]
    """What follows, by kind and type of numbers."""

    @model_validator(mode="after")
    def _it_is_ours_or_has_a_source(self) -> Self:
        if (self.machine is None) == (self.source is None):
            raise ValueError("say either `machine`, where this tool ran, or `source`, where the times are printed")
        return self
