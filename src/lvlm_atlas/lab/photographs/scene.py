"""Scenes: a photograph with things, a label and a chart on it, all of which is known.

H height, W width. The picture is a square of 3 × 3 cells; a thing takes one, a label two beside each other, a chart
2 × 2. What each pixel shows is known, too (`Scene.shown`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lvlm_atlas.lab.photographs.collection import Pixels, collection
from lvlm_atlas.lab.photographs.sources import sources

SIDE, CELLS = 96, 3
CELL = SIDE // CELLS
CHARACTERS = "ABCEHKLPRTUXY347"
"""What labels are written in: characters that differ in more than a pixel."""
MOST_CHARACTERS, LEAST_CHARACTERS = 6, 3
CHARACTER_WIDTH, CHARACTER_HEIGHT = 8, 16
GRID = 8
"""Labels stand on this grid, pixels: with characters anywhere, reading takes a small model far longer to learn."""
MOST_BARS, LEAST_BARS = 6, 4
MOST_THINGS = 6
MOST_ALIKE = 4
"""Most things of one word in a scene."""
BAR, TALLEST = "bar", "tallest bar"
NOTHING = "nothing"


@dataclass(frozen=True)
class Thing:
    """A cut-out on a scene."""

    word: str
    cell: int
    """Row by row, 0 to 8."""


@dataclass(frozen=True)
class Scene:
    """A picture, and all that is to be known of it."""

    pixels: Pixels
    """(H, W, 3)."""
    shown: NDArray[np.int16]
    """What each pixel shows, (H, W): an index into `labels()`."""
    things: tuple[Thing, ...] = ()
    """In reading order."""
    label: str = ""
    bars: tuple[int, ...] = ()
    """Heights of the chart's bars, pixels, from the left."""

    def at(self, cell: int) -> str:
        """The word for what a cell holds."""
        return next((thing.word for thing in self.things if thing.cell == cell), NOTHING)

    def count(self, word: str) -> int:
        """How many things of a word there are."""
        return sum(thing.word == word for thing in self.things)


@cache
def labels() -> tuple[str, ...]:
    """What a pixel can show: nothing in particular, a thing, a character, a bar."""
    return (NOTHING, *sources().things.files, *CHARACTERS, BAR, TALLEST)


@cache
def _index() -> dict[str, int]:
    return {label: index for index, label in enumerate(labels())}


class Canvas:
    """A picture in the making."""

    def __init__(self, background: Pixels) -> None:
        self.pixels = background.copy()
        self.shown = np.zeros(background.shape[:2], dtype=np.int16)

    def paste(self, rgba: Pixels, row: int, column: int, label: str) -> None:
        """Put a cut-out (H, W, 4) there; what stands over the edge is lost."""
        height, width = min(rgba.shape[0], SIDE - row), min(rgba.shape[1], SIDE - column)
        part = rgba[:height, :width]
        there = (slice(row, row + height), slice(column, column + width))
        alpha = part[..., 3:].astype(np.float32) / 255
        self.pixels[there] = (part[..., :3] * alpha + self.pixels[there] * (1 - alpha)).astype(np.uint8)
        self.shown[there][part[..., 3] > 128] = _index()[label]

    def fill(
        self, top: int, left: int, height: int, width: int, colour: NDArray[np.uint8], label: str = NOTHING
    ) -> None:
        """Paint a rectangle."""
        there = (slice(top, top + height), slice(left, left + width))
        self.pixels[there], self.shown[there] = colour, _index()[label]


def scene(random: np.random.Generator, *, training: bool) -> Scene:
    """A scene with up to six things, in half of the cases a label, in a quarter a chart.

    Args:
        random: draws everything.
        training: whether the photograph is one to train on; else it is one held back.
    """
    canvas = Canvas(background(random, training=training))
    free = set(range(CELLS**2))
    label = ""
    bars: tuple[int, ...] = ()
    if random.random() < 0.3:
        bars = _chart(canvas, random, free)
    if random.random() < 0.55:
        label = _label(canvas, random, free)
    things = _things(canvas, random, sorted(free))
    return Scene(canvas.pixels, canvas.shown, things, label, bars)


def frame(random: np.random.Generator, behind: Pixels, word: str) -> Scene:
    """A frame of a video: a picture, with one thing on it, larger than in a scene, or with nothing.

    Args:
        random: draws where it stands.
        behind: the picture, (H, W, 3) of the side of a scene.
        word: the thing; `NOTHING` for none.
    """
    canvas = Canvas(behind)
    if word == NOTHING:
        return Scene(canvas.pixels, canvas.shown)
    size = int(random.integers(32, 49))
    row, column = (int(each) for each in random.integers(0, SIDE - size, 2))
    canvas.paste(_cut_out(random, word, size), row, column, word)
    cell = (row + size // 2) // CELL * CELLS + (column + size // 2) // CELL
    return Scene(canvas.pixels, canvas.shown, (Thing(word, cell),))


def background(random: np.random.Generator, *, training: bool) -> Pixels:
    """A random part of a photograph, mirrored in half of the cases, (H, W, 3)."""
    photographs = collection().behind(training=training)
    part: Pixels = _part(random, photographs[random.integers(len(photographs))][None])[0]
    return part


def clip(random: np.random.Generator, frames: int, *, training: bool) -> Pixels:
    """Frames of a clip, one after the other, all of the same part of the picture, (F, H, W, 3)."""
    clips = collection().moving(training=training)
    chosen = clips[random.integers(len(clips))]
    first = random.integers(len(chosen) - frames + 1)
    return _part(random, chosen[first : first + frames])


def _part(random: np.random.Generator, pictures: Pixels) -> Pixels:
    from PIL import Image  # noqa: PLC0415 - an extra

    height, width = pictures.shape[1:3]
    side = int(random.integers(SIDE, min(height, width) + 1))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    cut = pictures[:, top : top + side, left : left + side]
    if random.random() < 0.5:
        cut = cut[:, :, ::-1]
    small = [Image.fromarray(np.ascontiguousarray(one)).resize((SIDE, SIDE)) for one in cut]
    return np.stack([np.asarray(one, dtype=np.uint8) for one in small])


def _things(canvas: Canvas, random: np.random.Generator, free: list[int]) -> tuple[Thing, ...]:
    number = int(random.integers(1, min(MOST_THINGS, len(free)) + 1))
    words = [*sources().things.files]
    kinds = random.choice(words, size=int(random.integers(1, number + 1)), replace=False).tolist()
    chosen = list(kinds)
    while len(chosen) < number:
        open_ = [word for word in kinds if chosen.count(word) < MOST_ALIKE]
        chosen.append(str(random.choice(open_ or [word for word in words if word not in chosen])))
    cells = sorted(int(cell) for cell in random.choice(free, size=number, replace=False))
    things = []
    for word, cell in zip(random.permutation(chosen).tolist(), cells, strict=True):
        cut_out = _cut_out(random, word, int(random.integers(27, CELL + 1)))
        row, column = (at * CELL + int(random.integers(CELL - length + 1)) if length < CELL else at * CELL
                       for at, length in zip(divmod(cell, CELLS), cut_out.shape[:2], strict=True))  # fmt: skip
        canvas.paste(cut_out, row, column, word)
        things.append(Thing(word, cell))
    return tuple(things)


def _cut_out(random: np.random.Generator, word: str, size: int) -> Pixels:
    """A thing, mirrored in half of the cases, turned by up to 15 degrees, its longer side of so many pixels."""
    from PIL import Image  # noqa: PLC0415

    image = Image.fromarray(collection().things[word])
    turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image
    turned = turned.rotate(float(random.uniform(-15, 15)), expand=True)
    scale = size / max(turned.size)
    small = turned.resize((max(1, round(turned.width * scale)), max(1, round(turned.height * scale))))
    return np.asarray(small)


def _label(canvas: Canvas, random: np.random.Generator, free: set[int]) -> str:
    starts = [cell for cell in free if cell % CELLS < CELLS - 1 and cell + 1 in free]
    if not starts:
        return ""
    start = int(random.choice(sorted(starts)))
    free -= {start, start + 1}
    length = int(random.integers(LEAST_CHARACTERS, MOST_CHARACTERS + 1))
    text = "".join(random.choice([*CHARACTERS], size=length).tolist())
    paper, ink = _two_colours(random)
    width = length * CHARACTER_WIDTH
    top = start // CELLS * CELL + GRID * int(random.integers((CELL - CHARACTER_HEIGHT) // GRID + 1))
    left = start % CELLS * CELL + GRID * int(random.integers((2 * CELL - width) // GRID + 1))
    canvas.fill(max(0, top - 2), max(0, left - 2), CHARACTER_HEIGHT + 4, width + 4, paper)
    for number, character in enumerate(text):
        rgba = np.empty((CHARACTER_HEIGHT, CHARACTER_WIDTH, 4), dtype=np.uint8)
        rgba[..., :3], rgba[..., 3] = ink, _glyph(character)
        at = (top, left + number * CHARACTER_WIDTH)
        canvas.paste(rgba, *at, character)
        # All of a character's box shows it, so that a patch knows which one it is part of.
        canvas.shown[at[0] : at[0] + CHARACTER_HEIGHT, at[1] : at[1] + CHARACTER_WIDTH] = _index()[character]
    return text


@cache
def _glyph(character: str) -> Pixels:
    """How opaque a character is (H, W), in the font that Pillow brings along."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    image = Image.new("L", (CHARACTER_WIDTH, CHARACTER_HEIGHT))
    font = ImageFont.load_default(size=13)
    ImageDraw.Draw(image).text((CHARACTER_WIDTH / 2, CHARACTER_HEIGHT / 2), character, 255, font, anchor="mm")
    return np.asarray(image)


def _chart(canvas: Canvas, random: np.random.Generator, free: set[int]) -> tuple[int, ...]:
    start = int(random.choice([0, 1, CELLS, CELLS + 1]))
    free -= {start, start + 1, start + CELLS, start + CELLS + 1}
    paper, ink = _two_colours(random)
    side, bars = 2 * CELL - 6, int(random.integers(LEAST_BARS, MOST_BARS + 1))
    top, left = start // CELLS * CELL + 3, start % CELLS * CELL + 3
    canvas.fill(top, left, side, side, paper)
    step = side // bars
    heights = random.integers(6, side - 12, size=bars)
    tallest = int(random.integers(bars))
    heights[tallest] = int(np.delete(heights, tallest).max()) + int(random.integers(5, 11))
    for number, height in enumerate(heights.tolist()):
        label = TALLEST if number == tallest else BAR
        canvas.fill(top + side - height, left + number * step + 1, height, step - 2, ink, label)
    return tuple(heights.tolist())


def _two_colours(random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A light one and a dark one, in either order."""
    light = random.integers(190, 256, size=3).astype(np.uint8)
    dark = random.integers(0, 70, size=3).astype(np.uint8)
    return (light, dark) if random.random() < 0.7 else (dark, light)
