"""Native resolution up to a longest side, a row of tokens ended by a break: Pixtral, Mistral-Small-3.1."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.shapes import merged
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Patches, Visual


def pixtral_grid(sizes: Sequence[tuple[int, int]], *, patch: int, merge: int, longest_edge: int) -> Visual:
    """Each image shrinks to the longest side, if it is larger, and is stretched to whole tokens.

    Each row of tokens ends with a break, the last one with an end: tokens of the vocabulary, counted with the image's.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        patch: side of a patch in pixels.
        merge: patches along a side that become one token; 1 in Pixtral.
        longest_edge: most pixels of a side.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 5.23, pixtral.
    """
    shapes, token, separators = [], 0, 0
    for width, height in checked(sizes):
        columns, rows = (
            max(1, -(-side // (patch * merge))) for side in _shrunk(width, height, longest_edge)
        )  # fmt: skip
        patches = columns * rows * merge**2
        shapes.append(Patches(1, patches, patches))
        token += columns * rows
        separators += rows
    return Visual(merged(shapes), token, token + separators, frames=len(sizes))


def _shrunk(width: int, height: int, longest_edge: int) -> tuple[int, int]:
    """Both sides in proportion, cut to whole pixels."""
    ratio = max(height / longest_edge, width / longest_edge)
    return (math.floor(width / ratio), math.floor(height / ratio)) if ratio > 1 else (width, height)
