"""One size for all images: LLaVA-1.5, and Gemma-3 with its optional crops."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.shapes import tiles
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Visual


def fixed(
    sizes: Sequence[tuple[int, int]],
    *,
    tile: int,
    patch: int,
    class_token: bool,
    token_per_tile: int,
    pan_and_scan: bool = False,
    min_crop: int = 256,
    max_crops: int = 4,
    min_ratio: float = 1.2,
) -> Visual:
    """Every image becomes one square tile, whatever its size; with pan-and-scan, elongated ones add crops of it.

    The last three defaults are those of Gemma-3, the one family that pans.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        tile: side in pixels that images are padded or squashed to.
        patch: side of a patch in pixels.
        class_token: whether the encoder adds one to each tile.
        token_per_tile: tokens of a tile in the LLM.
        pan_and_scan: whether elongated images are cut along their longer side too; off in the released processor.
        min_crop: least side of a crop in pixels.
        max_crops: most crops of an image.
        min_ratio: longer side to shorter from which on images are cut.

    Raises:
        AtlasError: a size that no image has.

    Source: LLaVA-1.5's preprocessor; transformers 4.51 gemma3 (5.23 cuts the same crops, though its helper that counts
    tokens without pixels leaves them out).
    """
    count = 0
    for width, height in checked(sizes):
        count += 1
        if pan_and_scan:
            count += crops(max(width, height), min(width, height), min_crop, max_crops, min_ratio)
    token = count * token_per_tile
    return Visual(tiles(count, tile=tile, patch=patch, class_token=class_token), token, token, frames=len(sizes))


def crops(longer: int, shorter: int, min_crop: int, max_crops: int, min_ratio: float) -> int:
    """Crops that pan-and-scan cuts along the longer side, next to the whole image."""
    if longer / shorter < min_ratio:
        return 0
    count = min(max_crops, max(2, min(longer // min_crop, math.floor(longer / shorter + 0.5))))
    return count if min(math.ceil(longer / count), shorter) >= min_crop else 0
