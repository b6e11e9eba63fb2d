"""A workload: what one request asks for, in pixels, seconds and tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lvlm_atlas.schema.model import Count
from lvlm_atlas.schema.record import Id, Record, Text

Positive = Annotated[float, Field(gt=0)]


class Image(Record):
    """Images of one size."""

    width: Count
    """Pixels."""
    height: Count
    """Pixels."""
    count: Count = 1
    """How many of them."""


class Video(Record):
    """A video and how often it is looked at."""

    width: Count
    """Pixels."""
    height: Count
    """Pixels."""
    duration_s: Positive
    """Length in seconds."""
    sample_fps: Positive = 2.0
    """Frames a second that are read, before the model's own limits."""
    source_fps: Positive = 30.0
    """Frames a second that the file holds."""


class Workload(Record):
    """One kind of request."""

    id: Id
    """Permanent id, equal to the file's name."""
    name: Text
    """Its name."""
    description: Text
    """What it stands for, and how it is modelled."""
    images: tuple[Image, ...] = ()
    """Its images."""
    videos: tuple[Video, ...] = ()
    """Its videos."""
    text_tokens: int = Field(ge=0)
    """Text tokens of the prompt, markers around images included; a turn."""
    output_tokens: Count
    """Tokens generated, a turn."""
    turns: Count = 1
    """Questions about the same visual input, one after the other."""
    batch: Count = 1
    """Such requests processed together."""
    rationale: Text
    """Why these numbers, or where they are from."""

    @model_validator(mode="after")
    def _shows_something(self) -> Workload:
        if not (self.images or self.videos):
            raise ValueError("has neither `images` nor `videos`; give one")
        return self
