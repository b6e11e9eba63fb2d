"""Several scales of one image, cut into tiles and stacked as channels: NVILA."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.dynamic_tiling import nearest_grid
from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def dynamic_s2(
    sizes: Sequence[tuple[int, int]], *, patch: int, scales: Sequence[int], max_tiles: int, token_per_tile: int
) -> Visual:
    """An image that comes alone is encoded at every scale; only the last one's tiles reach adapter and LLM.

    The lower scales are squares; their maps are resized to the last one's and stacked as channels. The last scale's
    grid is the nearest in aspect ratio, from the tiles of its square up. Of several images, each is one tile.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        patch: side of a patch in pixels.
        scales: sides in pixels, ascending; the first is a tile's and the others are multiples of it.
        max_tiles: most tiles of the last scale.
        token_per_tile: tokens of a tile in the LLM.

    Raises:
        AtlasError: a size that no image has.

    Source: NVlabs/VILA mm_utils; transformers 5.23 holds no copy to compare with.
    """
    tile, *_ = scales
    below, count = 0, 0
    for width, height in checked(sizes):
        if len(sizes) > 1:
            count += 1
            continue
        columns, rows = nearest_grid(width, height, tile=tile, min_tiles=(scales[-1] // tile) ** 2, max_tiles=max_tiles)
        below += sum((scale // tile) ** 2 for scale in scales[:-1])
        count += columns * rows
    token = count * token_per_tile
    return Visual(tiles(below + count, tile=tile, patch=patch), token, token, frames=len(sizes))
