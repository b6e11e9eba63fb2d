"""Tiles that one encoder sequence joins and cross-attention reads: Llama-3.2-Vision."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.shapes import merged
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Patches, Visual


def mllama_canvas(sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, max_tiles: int) -> Visual:
    """Each image goes to the canvas that enlarges it least, or else shrinks it least.

    Its tiles, each with a class token, are one sequence of the encoder; the LLM's sequence holds one token an image.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels.
        patch: side of a patch in pixels.
        max_tiles: most tiles of an image.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 4.51 and 5.23, mllama. That implementation pads every image to `max_tiles` tiles (and each of
    those to 1608 tokens) and masks the rest; here only the image's own tiles count, as a server runs them.
    """
    per_tile = (tile // patch) ** 2
    shapes, token = [], 0
    for width, height in checked(sizes):
        count = canvas_tiles(width, height, tile=tile, max_tiles=max_tiles)
        shapes.append(Patches(1, count * (per_tile + 1), count * per_tile))
        token += count * (per_tile + 1)
    return Visual(merged(shapes), token, len(sizes), cross_token=token, frames=len(sizes))


def canvas_tiles(width: int, height: int, *, tile: int, max_tiles: int) -> int:
    """Tiles of the canvas: the least enlargement, else the least shrinking, and among equals the fewest tiles."""
    scaled = [
        (min(columns * tile / width, rows * tile / height), columns * rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
    ]
    enlarging = [scale for scale, _ in scaled if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scale for scale, _ in scaled)
    return min(tiles for scale, tiles in scaled if scale == chosen)
