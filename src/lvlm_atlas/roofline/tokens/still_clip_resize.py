"""Native resolution, an image being a clip of as many frames as share a patch: GLM-4.1V and its successors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lvlm_atlas.roofline.tokens.shapes import merged
from lvlm_atlas.roofline.tokens.sizes import checked
from lvlm_atlas.roofline.tokens.video_clip_resize import video_clip_resize
from lvlm_atlas.roofline.visual import Patches, Visual


def still_clip_resize(
    sizes: Sequence[tuple[int, int]], *, patch: int, merge: int, temporal: int, min_pixels: int, max_pixels: int
) -> Visual:
    """Each image goes to the nearest size that whole tokens cover, as a clip that repeats it within limits of the clip.

    Args:
        sizes: (width, height) in pixels of all images of a request.
        patch: side of a patch in pixels.
        merge: patches along a side that become one token.
        temporal: frames that share a patch; the image counts as so many.
        min_pixels: least pixels of the clip.
        max_pixels: most pixels of the clip, so `temporal` times those of the image.

    Raises:
        AtlasError: a size that no image has, or one side is over 200 times the other.

    Source: transformers 5.23, glm4v.
    """
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    shapes: list[Patches] = []
    token = 0
    for (width, height), count in Counter(checked(sizes)).items():
        made = video_clip_resize(width, height, temporal, patch=patch, merge=merge, temporal=temporal, **limits)
        shapes += [replace(each, sequences=count * each.sequences) for each in made.patches]
        token += count * made.llm_token
    return Visual(merged(shapes), token, token, frames=len(sizes))
