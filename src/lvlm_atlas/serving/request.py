"""A request on its way through a server."""

from __future__ import annotations

from typing import Any

from lvlm_atlas.serving.shape import Shape
from lvlm_atlas.serving.traffic import Arrival


class Request:
    """What is known of one request while it is in the system."""

    __slots__ = (
        "arrival", "at_s", "computed", "first_s", "frames", "generated", "held_byte", "instance", "key", "lead",
        "pending", "pinned", "preempted", "ready", "shape",
    )  # fmt: skip

    def __init__(self, key: int, at_s: float, arrival: Arrival, shape: Shape, frames: tuple[int, ...]) -> None:
        self.key, self.at_s, self.arrival, self.shape = key, at_s, arrival, shape
        self.frames = frames
        """Frames of each image or video."""
        self.ready = [False] * len(frames)
        """Which of them have embeddings where the prompt is read."""
        self.pending = len(frames)
        """How many of them are still to be encoded."""
        self.lead = min(sum(tokens for _, tokens in arrival.prefix), shape.prompt - shape.vision)
        """Positions of text in front of the images."""
        self.computed = 0
        """Positions of the prompt in the cache."""
        self.generated = 0.0
        """Tokens of the answer that became part of the prompt, since its cache was given up."""
        self.first_s: float | None = None
        """When the first token was there."""
        self.instance: Any = None
        """The instance that reads its prompt, once that is known."""
        self.held_byte = 0.0
        """Cache that is set aside for it."""
        self.pinned: list[int] = []
        """Prefixes of a shared cache that it uses."""
        self.preempted = 0

    @property
    def modality(self) -> str:
        """Whether it has visual input."""
        return "visual" if self.frames else "text"

    @property
    def readable(self) -> int:
        """Positions of the prompt up to the first image without embeddings."""
        known = 0
        for frames, ready in zip(self.frames, self.ready, strict=True):
            if not ready:
                return self.lead + self.upto(known)
            known += frames
        return self.shape.prompt

    def upto(self, frames: int) -> int:
        """Positions that so many frames take; they stand in front of the text, but for the text that is shared."""
        return self.shape.vision * frames // self.shape.frames if self.shape.frames else 0

    @property
    def unread(self) -> int:
        """Positions of the prompt that are not in the cache."""
        return self.shape.prompt - self.computed

    @property
    def whole_byte(self) -> float:
        """Its cache at the end of the answer."""
        return max(self.shape.reads(self.shape.output - 1).held_byte, self.shape.prompt_byte)
