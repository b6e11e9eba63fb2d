"""The tasks by name, each with samples of its own, and how their questions are mixed for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lvlm_atlas.lab.photographs.scene import Scene, scene
from lvlm_atlas.lab.tasks import frames, stills
from lvlm_atlas.lab.tasks.sample import Sample, Turn

TURNS = 8
"""Questions on one picture where there are many."""


@dataclass(frozen=True)
class Task:
    """A kind of question, and how its samples are drawn."""

    id: str
    """Its name."""
    summary: str
    """What is asked, and what that is sensitive to."""
    least: float
    """Accuracy that a model must have before the task says anything."""
    draw: Callable[[np.random.Generator, bool], Sample]
    """A sample, of training pictures or of those held back."""
    streamed: bool = False
    """Whether frames are seen before a question is known, and turns follow each other on one cache."""

    def sample(self, number: int, *, training: bool = False) -> Sample:
        """The sample of a number; the same number is always the same sample."""
        side, name = int(training), sum(map(ord, self.id))
        return self.draw(np.random.default_rng((7, name, side, number)), training)


def _still(ask: stills.Ask) -> Callable[[np.random.Generator, bool], Sample]:
    def draw(random: np.random.Generator, training: bool) -> Sample:
        while True:
            picture = scene(random, training=training)
            if turn := ask(random, picture):
                return Sample((picture,), (turn,))

    return draw


def _many(random: np.random.Generator, training: bool) -> Sample:
    picture = scene(random, training=training)
    return Sample((picture,), tuple(_quick(random, picture) for _ in range(TURNS)))


def _several(
    make: Callable[..., tuple[Scene, ...]], ask: Callable[..., Turn | None], *, video: bool = False
) -> Callable[[np.random.Generator, bool], Sample]:
    def draw(random: np.random.Generator, training: bool) -> Sample:
        while True:
            pictures = make(random, training=training)
            if turn := ask(random, pictures):
                return Sample(pictures, (turn,), video)

    return draw


def _quick(random: np.random.Generator, picture: Scene) -> Turn:
    for at in random.permutation(len(stills.QUICK)):
        turn: Turn | None = stills.QUICK[at](random, picture)
        if turn:
            return turn
    raise AssertionError("every scene has cells to name")


TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        Task("name", "which thing a cell holds: coarse content", 0.85, _still(stills.name)),
        Task("where", "which cell holds a thing: content bound to its place", 0.85, _still(stills.where)),
        Task("count", "how many of a thing there are: all of them must be kept", 0.85, _still(stills.count)),
        Task("read", "three to six characters: fine detail, over several steps", 0.7, _still(stills.read)),
        Task("chart", "which bar is the tallest: thin structures", 0.7, _still(stills.chart)),
        Task("caption", "all things and their cells, 8 to 20 words: a long answer", 0.85, _still(stills.caption)),
        Task("images", "which of four pictures shows a thing", 0.85, _several(frames.images, frames.which)),
        Task("needle", "which of eight frames of a clip shows a thing", 0.85,
             _several(frames.needle, frames.which, video=True)),
        Task("burst", "which of eight pictures showed a thing, asked after them", 0.85,
             _several(frames.burst, frames.which), streamed=True),
        Task("turns", "eight questions on one picture, one after the other", 0.85, _many, streamed=True),
    )
}  # fmt: skip
"""Tasks by name."""


def training_sample(random: np.random.Generator, kind: str, most_words: int) -> Sample:
    """Pictures of a kind with as many questions as fit into so many words.

    Args:
        random: draws them.
        kind: `still`, `chart`, `count` and `caption` (stills that are asked for that), `images`, `needle` or `burst`.
        most_words: room for questions and answers, a word more each for the end of a question and of an answer.
    """
    if kind == "still":
        picture = scene(random, training=True)
        return Sample((picture,), _fitting(_on_still(random, picture), most_words))
    if kind in _ALONE:
        picture = scene(random, training=True)
        while not _ALONE[kind](random, picture):
            picture = scene(random, training=True)
        return Sample((picture,), _fitting(_alone(random, picture, _ALONE[kind]), most_words))
    pictures = {"images": frames.images, "needle": frames.needle, "burst": frames.burst}[kind](random, training=True)
    return Sample(pictures, _fitting(_on_frames(random, pictures, kind), most_words), video=kind == "needle")


_ALONE: dict[str, stills.Ask] = {"chart": stills.chart, "count": stills.count, "caption": stills.caption}
"""Questions on stills that take longer to learn than others."""


def _alone(random: np.random.Generator, picture: Scene, ask: stills.Ask) -> Iterator[Turn]:
    """One question once if it has one answer, else again and again, of another thing each time; then quick ones."""
    for _ in range(4):
        if turn := ask(random, picture):
            yield turn
        if ask is not stills.count:
            break
    while True:
        yield _quick(random, picture)


def _on_still(random: np.random.Generator, picture: Scene) -> Iterator[Turn]:
    """Questions in a random order: the rare ones once, then the quick ones without end."""
    once = [ask for ask in (stills.read, stills.chart) if ask(random, picture)]
    if random.random() < 0.25:
        once.append(stills.caption)
    asks = [*once, *(stills.QUICK[at] for at in random.integers(len(stills.QUICK), size=4))]
    for at in random.permutation(len(asks)):
        if turn := asks[at](random, picture):
            yield turn
    while True:
        yield _quick(random, picture)


def _on_frames(random: np.random.Generator, pictures: tuple[Scene, ...], kind: str) -> Iterator[Turn]:
    while True:
        turn = frames.what(random, pictures) if kind != "images" and random.random() < 0.4 else None
        if turn := turn or frames.which(random, pictures):
            yield turn
        else:
            return


def _fitting(turns: Iterator[Turn], most_words: int) -> tuple[Turn, ...]:
    chosen: list[Turn] = []
    for turn in turns:
        most_words -= len(turn.question) + len(turn.answer) + 2
        if most_words < 0:
            break
        chosen.append(turn)
    return tuple(chosen)
