"""Images enlarged to a longest side, cut into tiles, and seen whole once more: SmolVLM, Idefics3."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual

MOST_SIDE = 4096
"""Pixels that no side exceeds, whatever the longest side asked for; a constant of the released code."""


def idefics3_split(
    sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, longest_edge: int, token_per_tile: int
) -> Visual:
    """Each image is scaled to one longest side, small ones enlarged, and squashed to whole tiles.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        longest_edge: pixels of the longer side after scaling: 4 tiles in the released processor.
        token_per_tile: tokens of a tile in the LLM.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 4.51 and 5.23, idefics3 and smolvlm, the path that cuts pixels. The helper of 5.23 that counts
    without pixels rounds the shorter side up before it knows the longer one's, which differs where `longest_edge` is no
    multiple of the tile, and counts no tile where there is nothing to cut.
    """
    count = 0
    for width, height in checked(sizes):
        columns, rows = split_grid(width, height, tile=tile, longest_edge=longest_edge)
        count += columns * rows + (columns * rows > 1)
    token = count * token_per_tile
    return Visual(tiles(count, tile=tile, patch=patch), token, token, frames=len(sizes))


def split_grid(width: int, height: int, *, tile: int, longest_edge: int) -> tuple[int, int]:
    """Columns and rows of tiles, the view of the whole image not counted."""
    # The released code makes the shorter side even in between, which tiles of even sides never show.
    width, height = _scaled(width, height, longest_edge)
    if max(width, height) > MOST_SIDE:
        width, height = _scaled(width, height, MOST_SIDE)
    width, height = _scaled(width, height, math.ceil(max(width, height) / tile) * tile)
    return math.ceil(width / tile), math.ceil(height / tile)


def _scaled(width: int, height: int, longer: int) -> tuple[int, int]:
    """Both sides in proportion, the longer one given, the other cut to whole pixels."""
    aspect = width / height
    if width >= height:
        return longer, max(1, int(longer / aspect))
    return max(1, int(longer * aspect)), longer
