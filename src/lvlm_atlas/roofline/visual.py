"""What a token rule makes of a request's images and videos."""

from __future__ import annotations

from dataclasses import dataclass, replace

Steps = tuple[float, ...]
"""Pixels that a frame is resized to, one number after another; sides become whole tokens each time."""


@dataclass(frozen=True, slots=True)
class Patches:
    """Encoder sequences of one shape: tiles of an image, frames, or pairs of frames."""

    sequences: int
    """How many sequences there are."""
    token: int
    """Tokens in each, class token included."""
    patch: int
    """Patches in each: what the patch embedding makes."""
    window_pair: int | None = None
    """Query-key pairs of one layer that attends in windows, a sequence; None: the encoder has no windows."""


@dataclass(frozen=True, slots=True)
class Visual:
    """The visual input of a request in the model's own units."""

    patches: tuple[Patches, ...]
    """What the encoder processes."""
    adapter_token: int
    """Rows that the adapter's last linear layer writes, those thrown away afterwards included."""
    llm_token: int
    """Visual positions in the LLM's sequence, learned newline and separator vectors included, text markers not."""
    cross_token: int = 0
    """Vision tokens that cross-attention layers read in place of the sequence."""
    frames: int = 0
    """Images and sampled video frames that this stands for."""
    pixels: tuple[float, ...] = ()
    """Pixels of a frame that enter the patch embedding, for images of each size and for each video."""

    @property
    def encoder_token(self) -> int:
        """Tokens that the encoder processes, class tokens included."""
        return sum(each.sequences * each.token for each in self.patches)

    def part(self, frames: float) -> Visual:
        """So many of the frames, of each size a share, and what they come to."""
        if frames == self.frames:
            return self
        share = frames / self.frames
        patches = (replace(each, sequences=round(each.sequences * share)) for each in self.patches)
        return replace(
            self,
            patches=tuple(each for each in patches if each.sequences),
            adapter_token=round(self.adapter_token * share),
            llm_token=round(self.llm_token * share),
            cross_token=round(self.cross_token * share),
            frames=round(frames),
        )

    def __add__(self, other: Visual) -> Visual:
        """Both inputs in one request."""
        return Visual(
            self.patches + other.patches,
            self.adapter_token + other.adapter_token,
            self.llm_token + other.llm_token,
            self.cross_token + other.cross_token,
            self.frames + other.frames,
            self.pixels + other.pixels,
        )
