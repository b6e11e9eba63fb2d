"""Every image as large as a budget of tokens holds, its shape kept: Gemma-4."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens.shapes import merged
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Patches, Visual


def patch_budget(sizes: Sequence[tuple[int, int]], *, patch: int, merge: int, max_tokens: int) -> Visual:
    """Each image is enlarged or shrunk to the most pixels that the budget holds, its sides cut to whole tokens.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        patch: side of a patch in pixels.
        merge: patches along a side that are pooled to one token.
        max_tokens: most tokens of an image.

    Raises:
        AtlasError: a size that no image has, or one so thin that the budget holds no token of it.

    Source: transformers 5.23, gemma4. It pads the patches of every image to those of the budget and masks the rest;
    here only the image's own count, as a server may run them.
    """
    shapes, token, side = [], 0, patch * merge
    for width, height in checked(sizes):
        scale = math.sqrt(max_tokens * side**2 / (width * height))
        columns, rows = math.floor(scale * width / side), math.floor(scale * height / side)
        if not columns and not rows:
            raise AtlasError(f"image {width}x{height}: no token of it is within a budget of {max_tokens}; crop it")
        columns, rows = (
            (max(1, min(width // height, max_tokens)), 1)
            if not rows
            else (1, max(1, min(height // width, max_tokens)))
            if not columns
            else (columns, rows)
        )
        patches = columns * rows * merge**2
        shapes.append(Patches(1, patches, patches))
        token += columns * rows
    return Visual(merged(shapes), token, token, frames=len(sizes))
