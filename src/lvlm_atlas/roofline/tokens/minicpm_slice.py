"""Slices of about one area each, with their own aspect ratio: MiniCPM-V 2.6."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.shapes import merged
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Patches, Visual


def minicpm_slice(sizes: Sequence[tuple[int, int]], *, scale: int, patch: int, max_slices: int, queries: int) -> Visual:
    """An overview of each image, and slices of it where it has more than one square's pixels.

    All views have about `scale`² pixels, so slices differ in patches, while the resampler writes the same number of
    tokens for each.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        scale: side in pixels of the square whose area a view has.
        patch: side of a patch in pixels; sides of views are multiples of it.
        max_slices: most slices of an image; 1: the overview alone.
        queries: tokens that the resampler writes for a view.

    Raises:
        AtlasError: a size that no image has.

    Source: OpenBMB/MiniCPM-V finetune/dataset.py. transformers 5.23 holds a later model's rule (minicpmv4_6), which is
    the same but that it rounds to merged patches, 28 pixels, where this model rounds to 14.
    """
    shapes: list[Patches] = []
    for width, height in checked(sizes):
        overview = _view(width, height, scale, patch)
        shapes.append(Patches(1, overview, overview))
        if (grid := slice_grid(width, height, scale=scale, max_slices=max_slices)) is not None:
            columns, rows = grid
            per_slice = _view(max(1, round(width / columns)), max(1, round(height / rows)), scale, patch)
            shapes.append(Patches(columns * rows, per_slice, per_slice))
    token = queries * sum(each.sequences for each in shapes)
    return Visual(merged(shapes), token, token, frames=len(sizes))


def slice_grid(width: int, height: int, *, scale: int, max_slices: int) -> tuple[int, int] | None:
    """Columns and rows of the slices; None: the overview is enough.

    Of the grids with as many slices as the area asks for, one less or one more, the nearest in the logarithm of the
    aspect ratio; among equals that of fewest slices, then of fewest columns.
    """
    wanted = min(math.ceil(width * height / scale**2), max_slices)
    if wanted <= 1:
        return None
    grids = [
        (columns, count // columns)
        for count in (wanted - 1, wanted, wanted + 1)
        if 1 < count <= max_slices
        for columns in range(1, count + 1)
        if count % columns == 0
    ]
    aspect = math.log(width / height)
    return min(grids, key=lambda grid: abs(aspect - math.log(grid[0] / grid[1])))


def _view(width: int, height: int, scale: int, patch: int) -> int:
    """Patches of a view of this aspect ratio and about `scale`² pixels."""
    tall = int(scale / math.sqrt(width / height))
    wide = int(tall * (width / height))
    return max(1, round(wide / patch)) * max(1, round(tall / patch))
