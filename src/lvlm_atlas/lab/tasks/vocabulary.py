"""Words and their token ids."""

from __future__ import annotations

from functools import cache

from lvlm_atlas.lab.photographs.scene import CELLS, CHARACTERS, NOTHING
from lvlm_atlas.lab.photographs.sources import sources
from lvlm_atlas.lab.tasks.frames import FRAMES
from lvlm_atlas.lab.tasks.stills import cell_word

IMAGE, VIDEO, BEGIN, END, ASK = "<image>", "<video>", "<begin>", "<end>", "?"
"""The placeholders of a picture and of a frame, what a prompt begins with, what ends an answer, and a question.
The placeholder of a frame waits for dialects that tell videos from pictures; committed models count its token."""
_ABOUT = ("name", "where", "count", "read", "tallest", "describe", "says", "which", "what")


@cache
def vocabulary() -> dict[str, int]:
    """Token ids by word."""
    cells = (cell_word(cell) for cell in range(CELLS**2))
    numbers = map(str, range(FRAMES + 1))
    words = (IMAGE, VIDEO, BEGIN, END, ASK, NOTHING, *_ABOUT, *cells, *numbers, *CHARACTERS, *sources().things.files)
    return {word: id_ for id_, word in enumerate(dict.fromkeys(words))}


def token_ids(*words: str) -> list[int]:
    """Token ids of words."""
    return [vocabulary()[word] for word in words]
