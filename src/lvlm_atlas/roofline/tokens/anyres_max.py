"""Tiles of a padded canvas, the result scaled down to a budget: LLaVA-OneVision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from lvlm_atlas.roofline.tokens.anyres_unpad import unpadded
from lvlm_atlas.roofline.tokens.canvas import select_canvas
from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual

TOLERANCE = 1.1
"""How far a side may exceed the budget's before the cells are scaled down; a constant of the released code."""


def anyres_max(sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, max_side: int, max_tiles: int) -> Visual:
    """As `anyres_unpad`, with more canvases, and with what remains scaled down when it exceeds a budget.

    A request of more than one image gets one tile for each and one newline vector after it.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        max_side: most tiles along a side of the canvas; all canvases up to that square may be chosen.
        max_tiles: the budget: so many tiles' cells remain.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 4.51 and 5.23, llava_onevision. More than one image: the image processor of 5.23; its helper
    that counts tokens without pixels does not know, and counts every image as if it came alone.
    """
    side = tile // patch
    count = token = 0
    for width, height in checked(sizes):
        if len(sizes) > 1:
            count += 1
            token += side**2 + 1
            continue
        canvas_rows, canvas_columns = select_canvas(
            width,
            height,
            [(rows * tile, columns * tile) for rows, columns in product(range(1, max_side + 1), repeat=2)],
        )
        grid = canvas_rows // tile, canvas_columns // tile
        rows, columns = unpadded(width, height, side * grid[0], side * grid[1])
        ratio = math.sqrt(rows * columns / (max_tiles * side**2))
        if ratio > TOLERANCE:
            rows, columns = int(rows // ratio), int(columns // ratio)
        count += 1 + grid[0] * grid[1]
        token += side**2 + rows * columns + rows
    return Visual(tiles(count, tile=tile, patch=patch), count * side**2, token, frames=len(sizes))
