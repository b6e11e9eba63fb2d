"""As few tiles as show nine tenths of the image at its own resolution, with a thumbnail: Ovis2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual

ENOUGH = 0.9
"""Share of an image's pixels that its tiles are to show."""
MARKS = 3
"""Vectors of the visual table around an image: its start, what follows the whole, and its end."""


def covering_tiles(
    sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, max_tiles: int, token_per_tile: int
) -> Visual:
    """Each image is cut along a grid, and every piece is resized to a tile.

    The resolution decides: the grid of fewest tiles wins whose pieces lose no more than a tenth of the image where they
    shrink to a tile. If none is enough, the one that loses least wins. Marks between tiles of a row, and between rows,
    are vectors of the visual table too.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        max_tiles: most tiles of an image, the thumbnail not counted.
        token_per_tile: tokens of a tile in the LLM.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 5.23, image_processing_ovis2 and processing_ovis2.
    """
    count = mark = 0
    for width, height in checked(sizes):
        pieces = _pieces(width, height, tile, max_tiles)
        count += pieces + (pieces > 1)
        mark += MARKS + (pieces - 1)
    token = count * token_per_tile
    return Visual(tiles(count, tile=tile, patch=patch), token, token + mark, frames=len(sizes))


@lru_cache(maxsize=1024)
def _pieces(width: int, height: int, tile: int, most: int) -> int:
    """Tiles of the grid that is chosen."""
    shown = []
    for rows in range(1, most + 1):
        for columns in range(1, most // rows + 1):
            share = sum(_kept(*piece, tile) for piece in _cut(width, height, rows, columns)) / (width * height)
            shown.append((rows * columns, share))
    enough = [each for each in shown if each[1] > ENOUGH]
    return min(enough)[0] if enough else min(shown, key=lambda each: (-each[1], each[0]))[0]


def _cut(width: int, height: int, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Sides of the pieces; the last ones take what is left over."""
    wide, tall = width // columns, height // rows
    for row in range(rows):
        for column in range(columns):
            yield (
                width - column * wide if column == columns - 1 else wide,
                height - row * tall if row == rows - 1 else tall,
            )


def _kept(width: int, height: int, tile: int) -> float:
    """Pixels of a piece that are left once its longer side fits a tile."""
    long, short = max(width, height), min(width, height)
    if long > tile:
        return tile * (short / long * tile)
    return float(long * short)
