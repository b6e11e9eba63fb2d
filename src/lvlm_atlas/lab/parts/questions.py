"""Questions on what a frame shows, as prompts without pictures, and whether a frame shows it."""

from __future__ import annotations

import numpy as np

from lvlm_atlas.lab.photographs.scene import Scene
from lvlm_atlas.lab.tasks.frames import FRAMES, IMAGES
from lvlm_atlas.lab.tasks.vocabulary import ASK, IMAGE
from lvlm_atlas.lab.training.batch import opening

Question = tuple[str, ...]
ON_THINGS = ("where", "count", "which")


def on(random: np.random.Generator, scene: Scene) -> Question | None:
    """A question on something that a frame shows; None where it shows nothing."""
    asks: list[Question] = [(word, thing.word) for word in ON_THINGS for thing in scene.things]
    asks += [("read",)] * (2 * bool(scene.label)) + [("tallest",)] * (2 * bool(scene.bars))
    return asks[random.integers(len(asks))] if asks else None


def shows(scene: Scene, question: Question) -> bool:
    """Whether a frame shows what is asked for."""
    if question[0] == "read":
        return bool(scene.label)
    if question[0] == "tallest":
        return bool(scene.bars)
    return any(thing.word == question[1] for thing in scene.things)


def prompt(random: np.random.Generator, question: Question) -> tuple[str, ...]:
    """The words of a prompt with that question, for as many pictures as some task has."""
    return prompt_of(int(random.choice([IMAGES, FRAMES])) if question[0] == "which" else 1, question)


def prompt_of(frames: int, question: Question) -> tuple[str, ...]:
    """The words of a prompt with so many pictures, these left out."""
    return (*(word for word in opening(frames) if word != IMAGE), *question, ASK)
