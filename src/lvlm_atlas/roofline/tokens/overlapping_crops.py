"""Crops that overlap, and the whole, of which neighbours are pooled: Molmo and Molmo2."""

from __future__ import annotations

from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def overlapping_crops(
    sizes: Sequence[tuple[int, int]], *, tile: int, patch: int, pool: int, margin: int, max_crops: int,
    class_token: bool = False,
) -> Visual:  # fmt: skip
    """Each image is resized to the canvas of crops that enlarges it least, or shrinks it least where all are too small.

    Neighbouring crops share twice the margin; patches of the margins count once. Rows of tokens end with a mark.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side of a crop in pixels.
        patch: side of a patch in pixels.
        pool: patches along a side that become one token, the last ones padded.
        margin: patches at each side of a crop that its neighbour shows too.
        max_crops: most crops of an image.
        class_token: whether the encoder adds one to each crop.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 5.23, image_processing_molmo2 and processing_molmo2; vllm-project/vllm, molmo.py at 0176b7b.
    """
    side, window = tile // patch, tile // patch - 2 * margin
    whole = -(-side // pool)
    count = pooled = marks = 0
    for width, height in checked(sizes):
        shared = 2 * margin * patch
        rows, columns = crop_grid(width - shared, height - shared, side=window * patch, most=max_crops)
        tall, wide = (-(-(crops * window + 2 * margin) // pool) for crops in (rows, columns))
        count += 1 + rows * columns
        pooled += whole**2 + tall * wide
        marks += whole + tall
    return Visual(
        tiles(count, tile=tile, patch=patch, class_token=class_token), pooled, pooled + marks, frames=len(sizes)
    )


def crop_grid(width: int, height: int, *, side: int, most: int) -> tuple[int, int]:
    """Rows and columns of the crops: of the grids that enlarge, the one that does it least; else the largest scale.

    Among equals the one of fewest crops wins, then that of fewest rows. A side of no pixels, all of it margin, is
    enlarged beyond measure.
    """
    grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
    scales = {
        (rows, columns): min(_scale(rows * side, height), _scale(columns * side, width))
        for rows, columns in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[0]))
    }
    enlarging = [grid for grid, scale in scales.items() if scale >= 1]
    return min(enlarging, key=scales.__getitem__) if enlarging else max(scales, key=scales.__getitem__)


def _scale(canvas: int, image: int) -> float:
    return canvas / image if image else float("inf")
