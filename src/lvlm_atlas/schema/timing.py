"""Times that others measured and published, as requests that the engine can be asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lvlm_atlas.schema.record import Id, Record, Ref, Source, Text

Positive = Annotated[float, Field(gt=0, le=1e9)]


class Point(Record):
    """One time."""

    model: Annotated[Id, Ref("model")]
    """The model."""
    hardware: Annotated[Id, Ref("device")]
    """The device."""
    args: tuple[Text, ...]
    """The request and how it is run, as options of `lvlm-atlas estimate`."""
    text_only: bool = False
    """Whether there was no visual input, whatever image `args` give."""
    metric: Literal["ttft_s", "tpot_s", "total_s", "stages.encoding.time_s", "stages.prefilling.time_s"]
    """Which field of the estimate it is."""
    value: Positive
    """Seconds."""
    stated: Text
    """The number as printed, or what it follows from."""
    note: Text | None = None
    """What a reader should know besides."""
    excluded: Text | None = None
    """Why it counts for no fit; absent: it counts."""


class Timings(Record):
    """The times of one source and one runtime."""

    id: Id
    """Permanent id, equal to the file's name."""
    runtime: Annotated[Id, Ref("runtime")]
    """The runtime."""
    version: Text
    """Its version, as far as the source says."""
    source: Source
    """Where they are printed."""
    points: tuple[Point, ...] = Field(min_length=1)
    """The times."""
