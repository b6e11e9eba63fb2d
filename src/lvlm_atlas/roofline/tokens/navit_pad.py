"""Native resolution within a number of patches, padded to whole tokens: MoonViT of Kimi-VL and Kimi-K2.5."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.roofline.tokens.shapes import merged
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.visual import Patches, Visual


def navit_pad(
    sizes: Sequence[tuple[int, int]], *, patch: int, merge: int, max_patches: int, max_side: int = 512
) -> Visual:
    """Each image shrinks to what the numbers of patches hold, and is padded at its far edges; none is enlarged.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        patch: side of a patch in pixels.
        merge: patches along a side that become one token.
        max_patches: most patches of an image, before it is padded.
        max_side: most patches along a side.

    Raises:
        AtlasError: a size that no image has.

    Source: transformers 5.23, kimi_k25.
    """
    shapes, token, most = [], 0, max_side * patch
    for width, height in checked(sizes):
        whole = max(1, height // patch) * max(1, width // patch)
        scale = min(1.0, math.sqrt(max_patches / whole), most / height, most / width)
        columns, rows = (-(-min(max(1, int(side * scale)), most) // (patch * merge)) for side in (width, height))
        patches = columns * rows * merge**2
        shapes.append(Patches(1, patches, patches))
        token += columns * rows
    return Visual(merged(shapes), token, token, frames=len(sizes))
