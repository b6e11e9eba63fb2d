"""Several pictures, and questions on which of them shows what."""

from __future__ import annotations

import numpy as np

from lvlm_atlas.lab.photographs.scene import NOTHING, Scene, background, clip, frame, scene
from lvlm_atlas.lab.photographs.sources import sources
from lvlm_atlas.lab.tasks.sample import Turn

IMAGES, FRAMES = 4, 8


def images(random: np.random.Generator, *, training: bool) -> tuple[Scene, ...]:
    """Scenes of their own."""
    return tuple(scene(random, training=training) for _ in range(IMAGES))


def needle(random: np.random.Generator, *, training: bool) -> tuple[Scene, ...]:
    """Frames of a clip, one of which shows a thing."""
    behind, there = clip(random, FRAMES, training=training), int(random.integers(FRAMES))
    word = str(random.choice([*sources().things.files]))
    return tuple(frame(random, one, word if at == there else NOTHING) for at, one in enumerate(behind))


def burst(random: np.random.Generator, *, training: bool) -> tuple[Scene, ...]:
    """Photographs that have nothing to do with each other, each with another thing."""
    words = random.choice([*sources().things.files], size=FRAMES, replace=False).tolist()
    return tuple(frame(random, background(random, training=training), word) for word in words)


def which(random: np.random.Generator, frames: tuple[Scene, ...]) -> Turn | None:
    """The number of the only picture that shows a thing."""
    shown = [{thing.word for thing in each.things} for each in frames]
    once = [
        (word, at) for at, words in enumerate(shown) for word in sorted(words)
        if sum(word in others for others in shown) == 1
    ]  # fmt: skip
    if not once:
        return None
    word, at = once[random.integers(len(once))]
    return Turn(("which", word), (str(at + 1),))


def what(random: np.random.Generator, frames: tuple[Scene, ...]) -> Turn:
    """The thing that a picture with one thing at most shows."""
    at = int(random.integers(len(frames)))
    return Turn(("what", str(at + 1)), (frames[at].things[0].word if frames[at].things else NOTHING,))
