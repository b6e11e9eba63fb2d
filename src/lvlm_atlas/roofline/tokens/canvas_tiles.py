"""Tiles of the canvas that enlarges an image least, and one of the whole: Llama-4."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.mllama_canvas import canvas_tiles as tiles_of_canvas
from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def canvas_tiles(
    sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, class_token: bool, max_tiles: int, token_per_tile: int
) -> Visual:
    """Each image is padded to a canvas of tiles; where there are several, the whole image is one more.

    Tokens of the vocabulary between tiles are markers.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        class_token: whether the encoder adds one to each tile.
        max_tiles: most tiles of a canvas; all canvases of so many may be chosen.
        token_per_tile: tokens of a tile in the LLM.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 5.23, llama4.
    """
    count = 0
    for width, height in checked(sizes):
        found = tiles_of_canvas(width, height, tile=tile, max_tiles=max_tiles)
        count += found + (found > 1)
    token = count * token_per_tile
    return Visual(tiles(count, tile=tile, patch=patch, class_token=class_token), token, token, frames=len(sizes))
