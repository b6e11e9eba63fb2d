"""Pictures and the questions on them, in words."""

from __future__ import annotations

from dataclasses import dataclass

from lvlm_atlas.lab.photographs.scene import Scene


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: tuple[str, ...]
    answer: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """Pictures, and what is asked of them one after the other."""

    frames: tuple[Scene, ...]
    turns: tuple[Turn, ...]
    video: bool = False
    """Whether the pictures are frames of one clip, which some dialects read otherwise than pictures."""
