"""A global view and the tiles of a padded canvas, all of which reach the LLM: DeepSeek-VL2."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.canvas import select_canvas
from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def deepseek_vl2_tiles(
    sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, merge: int, max_tiles: int, max_tiled_images: int
) -> Visual:
    """One tile of the whole image, and those of the canvas that fits it best: one at least, padding included.

    Rows of both parts end with a learned newline vector, and one separator lies between them.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        merge: patches along a side that become one token, an odd last one padded.
        max_tiles: most tiles of a canvas; all canvases of so many may be chosen.
        max_tiled_images: in a request of more images, each gets a canvas of one tile.

    Raises:
        AtlasError: a size that no image has.

    Source: deepseek-ai/DeepSeek-VL2 processing_deepseek_vl_v2; a public script that converts the checkpoint lists its
    23 canvases, which are all of 9 tiles at most. transformers 5.23 holds the first DeepSeek-VL only.
    """
    side = -(-(tile // patch) // merge)
    canvases = [
        (rows * tile, columns * tile) for rows in range(1, max_tiles + 1) for columns in range(1, max_tiles // rows + 1)
    ]
    count = token = 0
    for width, height in checked(sizes):
        canvas = select_canvas(width, height, canvases) if len(sizes) <= max_tiled_images else (tile, tile)
        rows, columns = canvas[0] // tile, canvas[1] // tile
        count += 1 + rows * columns
        token += side * (side + 1) + 1 + side * rows * (side * columns + 1)
    return Visual(tiles(count, tile=tile, patch=patch), count * side**2, token, frames=len(sizes))
