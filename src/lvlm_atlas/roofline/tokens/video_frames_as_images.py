"""Videos of families that see frames as the images of a request: Phi-3.5-vision, MiniCPM-V 2.6."""

from __future__ import annotations

from typing import Any

from lvlm_atlas.roofline import tokens
from lvlm_atlas.roofline.tokens.sizes import checked_video
from lvlm_atlas.roofline.visual import Visual


def video_frames_as_images(width: int, height: int, frames: int, *, rule: str, **params: Any) -> Visual:
    """Each frame is an image of the request, often under tighter limits than an image that comes alone.

    Args:
        width: pixels of the source.
        height: pixels of the source.
        frames: frames already sampled.
        rule: name of the rule for images.
        params: its keyword arguments.

    Raises:
        AtlasError: a size or number of frames that no video has, there is no such rule, or it refuses the size.

    Source: Phi-3.5-vision's model card (4 crops a frame), MiniCPM-V 2.6's (1 or 2 slices).
    """
    size = checked_video(width, height, frames)
    return tokens.rule(rule)([size] * frames, **params)
