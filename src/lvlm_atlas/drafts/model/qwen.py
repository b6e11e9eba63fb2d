"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import pixels
from lvlm_atlas.drafts.model.source import Source

FORMULA = "sides rounded to multiples of patch times merge, within the limits of pixels; one token for merge² patches"
WHERE = "vision_start, the tokens, vision_end"
SERVED_PIXELS = {"min_pixels": 4096, "max_pixels": 25165824}
"""Least and most pixels of a clip in the video_preprocessor_config.json that is released with Qwen3-VL."""


def text_of(config: Source, kind: str) -> tuple[dict[str, Any], float]:
    """The language model, whose configuration older files hold at the top; its positions have three axes (M-RoPE)."""
    text, parameters = llm(config.part("text_config") if "text_config" in config else config, config, kind)
    return {**text, "position_axes": 3}, parameters


def merger(vision: Mapping[str, Any], merge: Any, out: Any, norm: float) -> tuple[list[Any], float]:
    """Widths of the patch merger, and its parameters with a norm of so many."""
    wide = vision["hidden"] * merge**2
    return [wide, wide, out], norm + wide**2 + wide + wide * out + out


def tokens(
    vision: Mapping[str, Any], merge: Any, processor: Source, window: Any = None, *, served: bool = False
) -> dict[str, Any]:
    """Rules for images and videos.

    Limits of images are the processor's. Those of videos are constants of qwen-vl-utils: a frame has 128 to 768 tokens'
    worth of pixels, a video nine tenths of 128,000, and frames come in pairs, 4 at least, 768 at most. With `served`,
    the rule stands beside it by which servers read videos of Qwen3-VL and its successors.
    """
    patch, extra = vision["patch_size"], {} if window is None else {"window": window}
    token = (patch * merge) ** 2
    limits = {
        "min_pixels": pixels(processor, "min_pixels", "shortest_edge"),
        "max_pixels": pixels(processor, "max_pixels", "longest_edge"),
    }
    video = {
        "temporal": vision["temporal_patch_size"], "min_pixels": 128 * token, "max_pixels": 768 * token,
        "total_pixels": 115200 * token,
    }  # fmt: skip
    shared = {"patch": patch, "merge": merge}
    servers = {"temporal": vision["temporal_patch_size"], **SERVED_PIXELS}
    return {
        "image": ("smart_resize", {**shared, **limits, **extra}),
        "video": (
            "video_smart_resize", {**shared, **video, **extra}, {"min_frames": 4, "max_frames": 768, "multiple": 2},
        ),
        "video_by": {"servers": ("video_clip_resize", {**shared, **servers}, {"min_frames": 4, "max_frames": 768})}
        if served
        else {},
        "formula": FORMULA,
        "where": WHERE,
    }  # fmt: skip
