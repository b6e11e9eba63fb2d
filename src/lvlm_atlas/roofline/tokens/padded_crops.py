"""Crops that cover an image at its own resolution, without those tokens that show padding alone: Phi-4-multimodal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens.dynamic_tiling import nearest_grid
from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual

THINNEST = 10
"""Pixels that the shorter side of a resized image has at least; the released processor refuses others."""


def padded_crops(sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, max_crops: int) -> Visual:
    """As many crops as cover the image, or the grid of nearest aspect ratio where those are too many, and the whole.

    The image fits its grid along one side and is padded along the other. Each two by two patches are averaged; rows of
    tokens end with a learned vector, and one more stands between the crops and the whole. The encoder runs padding too.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side of a crop in pixels.
        patch: side of a patch in pixels.
        max_crops: most crops of an image.

    Raises:
        AtlasError: a size that no image has, or an image so thin that it shrinks to less than 10 pixels.

    Source: transformers 5.23, image_processing_phi4_multimodal.
    """
    side = tile // patch
    half = -(-side // 2)
    count = token = 0
    for width, height in checked(sizes):
        columns, rows = -(-width // tile), -(-height // tile)
        if columns * rows > max_crops:
            columns, rows = nearest_grid(width, height, tile=tile, min_tiles=1, max_tiles=max_crops)
        across, down = columns * tile / width, rows * tile / height
        wide, tall = (columns * tile, int(height * across)) if across < down else (int(width * down), rows * tile)
        if min(wide, tall) < THINNEST:
            raise AtlasError(f"image {width}x{height} shrinks to {wide}x{tall} pixels, too few a side; crop it")
        seen_columns = _seen(columns * side - (columns * tile - wide) // patch, side)
        seen_rows = _seen(rows * side - (rows * tile - tall) // patch, side)
        count += 1 + columns * rows
        token += half * (half + 1) + 1 + seen_rows * (seen_columns + 1)
    return Visual(tiles(count, tile=tile, patch=patch), token, token, frames=len(sizes))


def _seen(patches: int, side: int) -> int:
    """Tokens along a side of the grid, of which so many patches show the image: every other patch of each crop."""
    return patches // side * math.ceil(side / 2) + math.ceil(patches % side / 2)
