"""Kernels measured on one device: how long operators of some shapes take, and the laws that follow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lvlm_atlas.limits import MOST_COUNT
from lvlm_atlas.schema.measurement import Machine
from lvlm_atlas.schema.record import Day, Id, Record, Ref
from lvlm_atlas.schema.runtime import Kernel

MOST_RESIDUAL = 0.15
"""Of the median error of a fit on what it was made to; what is further off is no law."""
Seconds = Annotated[float, Field(gt=0, le=1e5)]
Rate = Annotated[float, Field(gt=0, le=1e18)]
Dtype = Literal["float32", "bfloat16", "float16"]


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
    spread: Annotated[float, Field(ge=0)]
    """Distance of the quartiles of those times, over the median."""
    runs: Annotated[int, Field(ge=1)]
    """How many runs were timed."""


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
    """One run of the tool over the kernels of a device."""

    id: Id
    """Permanent id, equal to the file's name."""
    kind: Literal["calibration"]
    """What was measured."""
    date: Day
    """Day of the run."""
    version: str
    """Version of lvlm-atlas."""
    machine: Machine
    """Where it ran."""
    hardware: Annotated[Id, Ref("device")] | None = None
    """The device's record, whose peaks shares are of; absent: there is none, as of a processor."""
    rows: tuple[Row, ...] = Field(min_length=1)
    """What was measured."""
    laws: tuple[KernelLaw, ...]
    """What follows, by kind and type of numbers."""
