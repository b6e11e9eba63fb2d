"""The one check of sizes that all token rules share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvlm_atlas.fault import AtlasError

MOST_PIXELS = 178_956_970
"""Twice Pillow's `MAX_IMAGE_PIXELS`: it opens no image of more."""

Size = tuple[int, int]
"""Width and height in pixels."""


def checked(sizes: Sequence[Size], kind: str = "image") -> list[Size]:
    """The sizes as they came, if an image may have them.

    Args:
        sizes: width and height in pixels.
        kind: what the sizes belong to, for the message.

    Raises:
        AtlasError: a side is no whole number of pixels or below 1, or the image has more pixels than Pillow opens.
    """
    for width, height in sizes:
        what = f"{kind} {width}x{height}"
        if not all(math.isfinite(side) and side == int(side) and side >= 1 for side in (width, height)):
            raise AtlasError(f"{what}: each side must be a whole number of pixels, 1 or more; give width x height")
        if width * height > MOST_PIXELS:
            raise AtlasError(
                f"{what}: {width * height} pixels are more than {MOST_PIXELS}, twice Pillow's MAX_IMAGE_PIXELS, "
                "and Pillow opens no such image; shrink it"
            )
    return [(int(width), int(height)) for width, height in sizes]


def checked_video(width: int, height: int, frames: int) -> Size:
    """Width and height of a video's frames, if a video may have them.

    Raises:
        AtlasError: as `checked`, or there is no whole number of frames, 1 or more.
    """
    if not (math.isfinite(frames) and frames == int(frames) and frames >= 1):
        raise AtlasError(f"video of {frames} frames: a video has 1 frame or more; sample it more often")
    return checked([(width, height)], "video")[0]
