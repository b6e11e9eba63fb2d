"""What a model makes of a request's images and videos."""

from __future__ import annotations

import math
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.tokens import rule
from lvlm_atlas.roofline.tokens.sampling import sampled_frames
from lvlm_atlas.roofline.visual import Visual
from lvlm_atlas.roofline.workload import Workload

EMPTY = Visual((), 0, 0)


def visual(model: Model, workload: Workload, frame_share: float = 1.0, pixel_share: float = 1.0) -> Visual:
    """What the model makes of a request's images and videos.

    Args:
        model: the model, with its token rules.
        workload: the request.
        frame_share: share of images and of sampled frames that is kept.
        pixel_share: share of the pixels of each.

    Raises:
        AtlasError: the model takes no video, or an image is outside its limits.
    """
    side = math.sqrt(pixel_share)
    made = EMPTY
    if workload.images:
        sizes = [_sized(each.width, each.height, side) for each in workload.images for _ in range(each.count)]
        kept = sizes[: max(1, round(len(sizes) * frame_share))]
        made += rule(model.tokens.image)(kept, **model.tokens.image_params)
    for video in workload.videos:
        if model.tokens.video is None:
            raise AtlasError(
                f"{model.name} takes no video: no rule for it is published; "
                f"give frames as images, such as --image {video.width}x{video.height} --images 8"
            )
        params: dict[str, Any] = dict(model.tokens.video_params)
        limits = {key: params.pop(key) for key in ("min_frames", "max_frames", "multiple") if key in params}
        frames = sampled_frames(
            video.duration_s, sample_fps=video.sample_fps, source_fps=max(video.source_fps, video.sample_fps), **limits
        )
        kept_frames = max(1, round(frames * frame_share))
        made += rule(model.tokens.video)(*_sized(video.width, video.height, side), kept_frames, **params)
    return made


def _sized(width: int, height: int, side: float) -> tuple[int, int]:
    return (width, height) if side == 1 else (max(1, round(width * side)), max(1, round(height * side)))
