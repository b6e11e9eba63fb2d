"""What a request asks for, in pixels, seconds and tokens; models turn it into patches and vision tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.limits import REQUEST, VIDEO


def _require(record: object, limits: Mapping[str, tuple[float, float]], *, whole: bool) -> None:
    """Refuse numbers that no request has."""
    for name, (least, most) in limits.items():
        number = getattr(record, name, None)
        right = isinstance(number, int if whole else (int, float)) and not isinstance(number, bool)
        if number is not None and not (right and least <= number <= most):
            kind = "a whole number" if whole else "a number"
            raise AtlasError(f"{name} is {number!r}; give {kind} from {least:g} to {most:g}")


@dataclass(frozen=True, slots=True)
class Image:
    """Images of one size.

    Raises:
        AtlasError: a number is outside its range.
    """

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    count: int = 1
    """How many of them."""

    def __post_init__(self) -> None:
        _require(self, REQUEST, whole=True)


@dataclass(frozen=True, slots=True)
class Video:
    """A video and how often it is looked at.

    Raises:
        AtlasError: a number is outside its range.
    """

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    duration_s: float
    """Length."""
    sample_fps: float = 2.0
    """Frames a second that are read, before the model's own limits."""
    source_fps: float = 30.0
    """Frames a second that the file holds."""
    frames: int | None = None
    """Frames that are read, whatever the rate and the model's own limits; None: as many as these leave."""

    def __post_init__(self) -> None:
        _require(self, REQUEST, whole=True)
        _require(self, VIDEO, whole=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One request: its visual input, its prompt and its answer.

    Raises:
        AtlasError: a number is outside its range.
    """

    id: str = "request"
    """Its id."""
    images: tuple[Image, ...] = ()
    """Its images."""
    videos: tuple[Video, ...] = ()
    """Its videos."""
    text_tokens: int = 128
    """Text tokens of the prompt, markers around images included."""
    output_tokens: int = 256
    """Tokens generated, the one that prefilling yields included."""
    turns: int = 1
    """Questions about the same visual input, one after the other: each has `text_tokens` and `output_tokens`, and
    finds the cache of those before it."""
    batch: int = 1
    """Such requests processed together."""
    min_pixels: int | None = None
    """Least pixels of an image or a frame, or of a clip where the model's rule bounds that; None: the model's own."""
    max_pixels: int | None = None
    """Most pixels, alike."""
    vision_tokens: int | None = None
    """Vision tokens that each image is to become; None: as many as its size makes. See `reading`."""
    sized_for: int | None = None
    """Vision tokens that the images have been sized for; None: they have the size that they were given with."""
    video_by: str | None = None
    """Whose rule reads videos, of those in the model's record; None: the one that stands first."""

    def __post_init__(self) -> None:
        _require(self, REQUEST, whole=True)
