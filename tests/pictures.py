"""Pictures without content in place of the photographs, which no test fetches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lvlm_atlas.lab.photographs.collection import PHOTOGRAPH_PIXEL, place
from lvlm_atlas.lab.photographs.sources import sources


def write_pictures() -> Path:
    """A collection of noise where the lab looks for its own."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return random.integers(0, 256, shape, dtype=np.uint8)

    arrays = {f"things/{word}": noise(20 + 2 * number, 40, 4) for number, word in enumerate(sources().things.files)}
    for kind in ("photographs", "held_back"):
        arrays |= {f"{kind}/{number}": noise(PHOTOGRAPH_PIXEL, PHOTOGRAPH_PIXEL + 30, 3) for number in range(3)}
    for kind in ("clips", "held_back_clips"):
        arrays[f"{kind}/0"] = noise(12, PHOTOGRAPH_PIXEL, PHOTOGRAPH_PIXEL + 30, 3)
    place().parent.mkdir(parents=True, exist_ok=True)
    np.savez(place(), **arrays)
    return place()
