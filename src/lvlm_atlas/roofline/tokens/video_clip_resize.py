"""Videos of Qwen3-VL as servers read them: the pixels of the whole clip are bounded, those of a frame are not."""

from __future__ import annotations

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens.sizes import checked_video
from lvlm_atlas.roofline.tokens.smart_resize import sequence, token_grid
from lvlm_atlas.roofline.visual import Visual


def video_clip_resize(
    width: int,
    height: int,
    frames: int,
    *,
    patch: int,
    merge: int,
    temporal: int,
    min_pixels: int,
    max_pixels: int,
    window: int | None = None,
) -> Visual:
    """All frames go to one size, so that the clip keeps within its limits; each `temporal` of them become one sequence.

    Short clips keep their frames nearly whole, so they cost almost as much as long ones.

    Args:
        width: pixels of the source.
        height: pixels of the source.
        frames: frames already sampled.
        patch: side of a patch in pixels.
        merge: patches along a side that become one token.
        temporal: frames that share a patch; an odd last one is repeated.
        min_pixels: least pixels of the clip, all frames together; smaller ones are enlarged.
        max_pixels: most pixels of the clip; larger ones shrink.
        window: as in `smart_resize`.

    Raises:
        AtlasError: a size or number of frames that no video has, fewer frames than share a patch, or one side is over
            200 times the other.

    Source: `Qwen3VLVideoProcessor` of transformers 5.23 without `cap_pixels_per_frame`, which vLLM and SGLang run.
    """
    width, height = checked_video(width, height, frames)
    if frames < temporal:
        raise AtlasError(f"video of {frames} frame(s): {temporal} share a patch; sample it more often")
    factor = patch * merge
    if min(width, height) < factor:
        scale = max(factor / height, factor / width)
        width, height = int(width * scale), int(height * scale)
    # Sides are tried with frames rounded to whole patches, and scaled by the frames as they are.
    tried = round(frames / temporal) * temporal
    columns, rows = token_grid(
        width, height, factor=factor, min_pixels=min_pixels / tried, max_pixels=max_pixels / tried,
        kind="video", scale_by=tried / frames,
    )  # fmt: skip
    pairs = -(-frames // temporal)
    token = pairs * columns * rows
    return Visual((sequence(columns, rows, merge, window, pairs),), token, token, frames=frames)
