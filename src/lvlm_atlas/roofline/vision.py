"""What a model makes of a request's images and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.tokens import rule
from lvlm_atlas.roofline.tokens.sampling import sampled_frames
from lvlm_atlas.roofline.tokens.sizes import Size
from lvlm_atlas.roofline.tokens.smart_resize import token_grid
from lvlm_atlas.roofline.visual import Steps, Visual
from lvlm_atlas.roofline.workload import Image, Video, Workload

EMPTY = Visual((), 0, 0)
_LIMITS = ("min_frames", "max_frames", "multiple")
"""Parameters of a video's rule that say how many frames are read."""


def visual(model: Model, workload: Workload, frame_share: float = 1.0, pixels: Sequence[Steps] | None = None) -> Visual:
    """What the model makes of a request's images and videos.

    Args:
        model: the model, with its token rules.
        workload: the request.
        frame_share: share of images and of sampled frames that is kept.
        pixels: what each frame is resized to, step by step, in the order of `Visual.pixels`; a frame that has as many
            is left alone. Sides become whole tokens where the model takes any resolution, else whole pixels, and the
            model's own least resolution no longer holds. None: no frame is resized.

    Raises:
        AtlasError: the model takes no video, or an image is outside its limits.
    """
    made, asked = EMPTY, iter(pixels or ())
    if workload.images:
        made += _images(model, workload.images, frame_share, asked)
    for video in workload.videos:
        made += _video(model, video, frame_share, next(asked, ()))
    return made


def _images(model: Model, images: Iterable[Image], frame_share: float, asked: Iterator[Steps]) -> Visual:
    """What the model makes of images, those of each size resized by the next steps, if there are."""
    to_tokens, params = rule(model.tokens.image), dict(model.tokens.image_params)
    sizes, entering = [], []
    free = params
    for each in images:
        size = (each.width, each.height)
        own = _entering(size, to_tokens([size], **params), params)
        resized, pixels = _resized(size, own, next(asked, ()), params)
        sizes += [resized] * each.count
        entering.append(pixels)
        free = _free(params) if resized != size else free
    kept = sizes[: max(1, round(len(sizes) * frame_share))]
    return replace(to_tokens(kept, **free), pixels=tuple(entering))


def _video(model: Model, video: Video, frame_share: float, pixels: Steps) -> Visual:
    """What the model makes of a video, its frames resized by these steps."""
    if model.tokens.video is None:
        raise AtlasError(
            f"{model.name} takes no video: no rule for it is published; "
            f"give frames as images, such as --image {video.width}x{video.height} --images 8"
        )
    params: dict[str, Any] = {k: v for k, v in model.tokens.video_params.items() if k not in _LIMITS}
    frames = frames_read(model, video)
    size, kept_frames = (video.width, video.height), max(1, round(frames * frame_share))
    made = rule(model.tokens.video)(*size, kept_frames, **params)
    own = _entering(size, made, params)
    resized, entering = _resized(size, own, pixels, params)
    if resized != size:
        made = rule(model.tokens.video)(*resized, kept_frames, **_free(params))
    return replace(made, pixels=(entering,))


def frames_read(model: Model, video: Video) -> int:
    """Frames that a model which takes videos reads of one: those asked for, else so many a second within its limits.

    Raises:
        AtlasError: the file does not hold as many frames as it must.
    """
    limits = {key: value for key, value in (model.tokens.video_params or {}).items() if key in _LIMITS}
    return _frames(video, **limits)


def frames_asked(video: Video) -> int:
    """Frames that a model without limits would read at the rate that is asked for."""
    return _frames(replace(video, frames=None), min_frames=1, max_frames=10**9, multiple=1)


def _frames(video: Video, *, min_frames: int, max_frames: int, multiple: int) -> int:
    if video.frames is not None:
        min_frames = max_frames = video.frames
    fps = video.sample_fps
    return sampled_frames(
        video.duration_s, sample_fps=fps, source_fps=max(video.source_fps, fps), min_frames=min_frames,
        max_frames=max_frames, multiple=multiple,
    )  # fmt: skip


def _factor(params: Mapping[str, Any]) -> int:
    """Side of the square of pixels that becomes one token, where a model takes any resolution; else 1, a pixel."""
    return int(params["patch"] * params["merge"]) if "max_pixels" in params else 1


def _free(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a rule for frames that have been resized: the model's own least resolution no longer holds."""
    return {**params, "min_pixels": 0} if "min_pixels" in params else params


def _entering(size: Size, made: Visual, params: Mapping[str, Any]) -> float:
    """Pixels of a frame of that size as the model's own rule resizes it; those of the frame where tiles are cut."""
    return float(made.patches[0].patch * params["patch"] ** 2 if _factor(params) > 1 else size[0] * size[1])


def _resized(size: Size, own: float, steps: Steps, params: Mapping[str, Any]) -> tuple[Size, float]:
    """The size to resize to in the end, and the pixels that enter."""
    factor = _factor(params)
    for pixels in steps:
        if pixels != own:
            columns, rows = token_grid(*size, factor=factor, min_pixels=pixels, max_pixels=pixels, kind="image")
            size, own = (columns * factor, rows * factor), float(columns * rows * factor**2)
    return size, own
