"""As many crops as a budget holds, and a global view: Phi-3.5-vision."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def hd_transform(
    sizes: Sequence[tuple[int, int]],
    *,
    tile: int,
    patch: int,
    class_token: bool,
    merge: int,
    num_crops: int,
    num_crops_many: int | None = None,
) -> Visual:
    """Each image is enlarged or reduced to the widest grid of crops that the budget holds, and seen whole once more.

    Rows of tokens end with a learned separator, and one more lies between crops and global view.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side of a crop in pixels.
        patch: side of a patch in pixels.
        class_token: whether the encoder adds one to each crop.
        merge: patches along a side that become one token.
        num_crops: most crops of an image.
        num_crops_many: most crops of an image in a request of several; None: `num_crops`.

    Raises:
        AtlasError: a size that no image has, or an image so thin that its shorter side vanishes.

    Source: mlx-vlm 0.7 phi3_v, a re-implementation of the model card's code; the card advises 16 crops for one image
    and 4 for several. transformers 5.23 holds Phi-4's rule only, which tiles like InternVL.
    """
    side = tile // patch // merge
    budget = num_crops if len(sizes) == 1 or num_crops_many is None else num_crops_many
    count = token = 0
    for width, height in checked(sizes):
        columns, rows = crop_grid(width, height, tile=tile, num_crops=budget)
        count += 1 + columns * rows
        token += (1 + columns * rows) * side**2 + 1 + (rows + 1) * side
    patches = tiles(count, tile=tile, patch=patch, class_token=class_token)
    return Visual(patches, count * side**2, token, frames=len(sizes))


def crop_grid(width: int, height: int, *, tile: int, num_crops: int) -> tuple[int, int]:
    """Columns and rows of crops; a tall image takes the grid of its transpose, turned."""
    aspect = max(width, height) / min(width, height)
    longer = max(count for count in range(1, num_crops + 1) if count * math.ceil(count / aspect) <= num_crops)
    scaled = int(tile * longer / aspect)
    if scaled < 1:
        raise AtlasError(
            f"image {width}x{height}: one side is {aspect:.4g} times the other, so hd_transform scales it to nothing; "
            "crop the image"
        )
    shorter = math.ceil(scaled / tile)
    return (longer, shorter) if width >= height else (shorter, longer)
