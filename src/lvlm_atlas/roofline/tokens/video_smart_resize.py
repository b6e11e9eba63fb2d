"""Videos of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: frames in pairs, their pixels out of one budget."""

from __future__ import annotations

from lvlm_atlas.roofline.tokens.sizes import checked_video
from lvlm_atlas.roofline.tokens.smart_resize import sequence, token_grid
from lvlm_atlas.roofline.visual import Visual


def video_smart_resize(
    width: int,
    height: int,
    frames: int,
    *,
    patch: int,
    merge: int,
    temporal: int,
    min_pixels: int,
    max_pixels: int,
    total_pixels: int,
    window: int | None = None,
) -> Visual:
    """All frames go to one size; each `temporal` of them become one sequence, an odd last one repeated.

    A frame's share of the budget is what bounds it in long videos. The most lies a twentieth above the least at least,
    so that there is a size between.

    Args:
        width: pixels of the source.
        height: pixels of the source.
        frames: frames already sampled.
        patch: side of a patch in pixels.
        merge: patches along a side that become one token.
        temporal: frames that share a patch.
        min_pixels: least pixels of a frame: 128 tokens' worth.
        max_pixels: most pixels of a frame: 768 tokens' worth.
        total_pixels: most pixels of the whole video, `temporal` frames counted as one: 115,200 tokens' worth.
        window: as in `smart_resize`.

    Raises:
        AtlasError: a size or number of frames that no video has, or one side is over 200 times the other.

    Source: qwen-vl-utils 0.0.14, which the model cards use; a frame's share is cut to whole pixels as Qwen2-VL's
    processor of transformers 5.23 does under `cap_pixels_per_frame=True`, which moves 1 video in 50,000 by a row or
    column. Without that, its default, it has no budget; Qwen3-VL's bounds the clip and not the frame, so short clips
    cost more there, and with the cap it still asks the least of the clip.
    """
    width, height = checked_video(width, height, frames)
    share = total_pixels * temporal // frames
    columns, rows = token_grid(
        width,
        height,
        factor=patch * merge,
        min_pixels=min_pixels,
        max_pixels=max(min(max_pixels, share), int(min_pixels * 1.05)),
        kind="video",
    )
    pairs = -(-frames // temporal)
    token = pairs * columns * rows
    return Visual((sequence(columns, rows, merge, window, pairs),), token, token, frames=frames)
