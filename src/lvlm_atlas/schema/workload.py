"""A workload: what one request asks for, in pixels, seconds and tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from lvlm_atlas.limits import REQUEST, VIDEO
from lvlm_atlas.schema.record import Id, Record, Text, within


class Image(Record):
    """Images of one size."""

    width: Annotated[int, within(REQUEST["width"])]
    """Pixels."""
    height: Annotated[int, within(REQUEST["height"])]
    """Pixels."""
    count: Annotated[int, within(REQUEST["count"])] = 1
    """How many of them."""


class Video(Record):
    """A video and how often it is looked at."""

    width: Annotated[int, within(REQUEST["width"])]
    """Pixels."""
    height: Annotated[int, within(REQUEST["height"])]
    """Pixels."""
    duration_s: Annotated[float, within(VIDEO["duration_s"])]
    """Length in seconds."""
    sample_fps: Annotated[float, within(VIDEO["sample_fps"])] = 2.0
    """Frames a second that are read, before the model's own limits."""
    source_fps: Annotated[float, within(VIDEO["source_fps"])] = 30.0
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
    text_tokens: Annotated[int, within(REQUEST["text_tokens"])]
    """Text tokens of the prompt, markers around images included; a turn."""
    output_tokens: Annotated[int, within(REQUEST["output_tokens"])]
    """Tokens generated, a turn."""
    turns: Annotated[int, within(REQUEST["turns"])] = 1
    """Questions about the same visual input, one after the other."""
    batch: Annotated[int, within(REQUEST["batch"])] = 1
    """Such requests processed together."""
    rationale: Text
    """Why these numbers, or where they are from."""

    @model_validator(mode="after")
    def _shows_something(self) -> Workload:
        if not (self.images or self.videos):
            raise ValueError("has neither `images` nor `videos`; give one")
        return self
