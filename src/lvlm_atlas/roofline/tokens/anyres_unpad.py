"""Tiles of a padded canvas, the padding thrown away after the encoder: LLaVA-NeXT."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.canvas import select_canvas
from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def anyres_unpad(
    sizes: Sequence[tuple[int, int]],
    *,
    tile: int,
    patch: int,
    class_token: bool,
    pinpoints_hw: Sequence[tuple[int, int]],
) -> Visual:
    """One tile of the whole image, and the tiles of the canvas that fits it best.

    Encoder and adapter run on all tiles; of the canvas, only cells that the image covers reach the LLM, and each of
    their rows ends with a learned newline vector.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        class_token: whether the encoder adds one to each tile; the adapter drops it.
        pinpoints_hw: canvases to choose from, (height, width) in pixels.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 4.51 and 5.23, llava_next.
    """
    side = tile // patch
    count = token = 0
    for width, height in checked(sizes):
        canvas = select_canvas(width, height, pinpoints_hw)
        rows, columns = unpadded(width, height, side * (canvas[0] // tile), side * (canvas[1] // tile))
        count += 1 + (canvas[0] // tile) * (canvas[1] // tile)
        token += side**2 + rows * columns + rows
    patches = tiles(count, tile=tile, patch=patch, class_token=class_token)
    return Visual(patches, count * side**2, token, frames=len(sizes))


def unpadded(width: int, height: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a canvas' cells that an image of this aspect ratio covers.

    The same number of cells goes from both sides, so an odd rest leaves a row or column of padding in place.
    """
    if width / height > columns / rows:
        covered = int(round(height * (columns / width), 7))
        return rows - (rows - covered) // 2 * 2, columns
    covered = int(round(width * (rows / height), 7))
    return rows, columns - (columns - covered) // 2 * 2
