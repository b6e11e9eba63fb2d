"""Questions on one scene. Each gives a turn, or None where the scene does not lend itself to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lvlm_atlas.lab.photographs.scene import CELLS, MOST_ALIKE, Scene
from lvlm_atlas.lab.photographs.sources import sources
from lvlm_atlas.lab.tasks.sample import Turn

Ask = Callable[[np.random.Generator, Scene], Turn | None]


def cell_word(cell: int) -> str:
    """The word for a cell: its row as a letter, its column as a number."""
    row, column = divmod(cell, CELLS)
    return f"{'abc'[row]}{column + 1}"


def name(random: np.random.Generator, scene: Scene) -> Turn:
    """What a cell holds, in four of five cases a thing."""
    cells = [thing.cell for thing in scene.things]
    cell = int(random.choice(cells)) if random.random() < 0.8 else int(random.integers(CELLS**2))
    return Turn(("name", cell_word(cell)), (scene.at(cell),))


def where(random: np.random.Generator, scene: Scene) -> Turn | None:
    """The cell of a thing that is there once."""
    once = [thing for thing in scene.things if scene.count(thing.word) == 1]
    if not once:
        return None
    thing = once[random.integers(len(once))]
    return Turn(("where", thing.word), (cell_word(thing.cell),))


def count(random: np.random.Generator, scene: Scene) -> Turn:
    """How many things of a word there are, each number as often where the scene has it."""
    numbers = {word: scene.count(word) for word in sources().things.files}
    number = int(random.choice(sorted(set(numbers.values()))))
    word = str(random.choice([word for word, count in numbers.items() if count == number]))
    return Turn(("count", word), (str(min(number, MOST_ALIKE)),))


def read(random: np.random.Generator, scene: Scene) -> Turn | None:  # noqa: ARG001 - a label leaves no choice
    """The characters of the label."""
    return Turn(("read",), tuple(scene.label)) if scene.label else None


def chart(random: np.random.Generator, scene: Scene) -> Turn | None:  # noqa: ARG001
    """Which bar is the tallest, from the left."""
    return Turn(("tallest",), (str(int(np.argmax(scene.bars)) + 1),)) if scene.bars else None


def caption(random: np.random.Generator, scene: Scene) -> Turn | None:  # noqa: ARG001
    """All things with their cells, then the label: 8 to 20 words."""
    words = [word for thing in scene.things for word in (thing.word, cell_word(thing.cell))]
    words += ["says", *scene.label] if scene.label else []
    return Turn(("describe",), tuple(words)) if 8 <= len(words) <= 20 else None


QUICK: tuple[Ask, ...] = (name, where, count)
"""Those that every scene allows, more or less."""
