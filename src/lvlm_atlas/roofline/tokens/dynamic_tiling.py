"""Tiles in the grid of the nearest aspect ratio, with a thumbnail: InternVL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def dynamic_tiling(
    sizes: Sequence[tuple[int, int]],
    *,
    tile: int,
    patch: int,
    class_token: bool,
    min_tiles: int,
    max_tiles: int,
    token_per_tile: int,
    thumbnail: bool,
) -> Visual:
    """Each image is squashed to a grid of tiles, all of which reach the LLM.

    The nearest aspect ratio decides, not the resolution: 800 x 600 takes 4 x 3 tiles and 1920 x 1080 takes 4 x 2.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        class_token: whether the encoder adds one to each tile.
        min_tiles: least tiles of an image.
        max_tiles: most tiles of an image, the thumbnail not counted.
        token_per_tile: tokens of a tile in the LLM.
        thumbnail: whether images of several tiles add one of the whole image.

    Raises:
        AtlasError: a size that no image has.

    Source: OpenGVLab/InternVL; got_ocr2 of transformers 5.23, which InternVL uses there, agrees.
    """
    count = 0
    for width, height in checked(sizes):
        columns, rows = nearest_grid(width, height, tile=tile, min_tiles=min_tiles, max_tiles=max_tiles)
        count += columns * rows + (thumbnail and columns * rows > 1)
    token = count * token_per_tile
    return Visual(tiles(count, tile=tile, patch=patch, class_token=class_token), token, token, frames=len(sizes))


def nearest_grid(width: int, height: int, *, tile: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of the grid nearest in aspect ratio.

    On a tie the grid of more tiles wins, as long as the image has more than half its pixels.
    """
    aspect, best, least = width / height, (1, 1), float("inf")
    for columns, rows in _grids(min_tiles, max_tiles):
        distance = abs(aspect - columns / rows)
        enough = 2 * width * height > tile**2 * columns * rows
        if distance < least or (distance == least and enough):
            best, least = (columns, rows), distance
    return best


@cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Columns and rows of all grids within the limits, by their tiles.

    The released code leaves the order of grids of equal tiles open; no image lies exactly between two such.
    """
    every = ((columns, rows) for columns in range(1, max_tiles + 1) for rows in range(1, max_tiles // columns + 1))
    return tuple(sorted((grid for grid in every if grid[0] * grid[1] >= min_tiles), key=lambda grid: grid[0] * grid[1]))
