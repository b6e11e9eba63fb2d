"""Gemma-3: one square tile, average pooling, local layers with a sliding window."""

from __future__ import annotations

from lvlm_atlas.drafts.model import hybrid
from lvlm_atlas.drafts.model.encoders import encoder, side
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import UNKNOWN, Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Gemma-3 says."""
    vision, vision_parameters = encoder(config.part("vision_config"))
    given = config.part("text_config").read_by("Gemma3TextConfig")
    text, text_parameters = llm(given, config, "gemma3_text")
    text |= hybrid.window(given, text["layers"], given.number("sliding_window_pattern", "_sliding_window_pattern"))
    token = config.read_by("Gemma3Config").number("mm_tokens_per_image")
    into, out = vision["hidden"], text["hidden"]
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"], "class_token": False}
    pans = {}
    if processor.data.get("do_pan_and_scan"):
        pans = {
            "pan_and_scan": True,
            "min_crop": processor.number("pan_and_scan_min_crop_size"),
            "max_crops": processor.number("pan_and_scan_max_num_crops"),
            "min_ratio": processor.data.get("pan_and_scan_min_ratio_to_activate", UNKNOWN),
        }
    return Parts(
        vision=vision, vision_parameters=vision_parameters,
        adapter={
            "type": "average pooling + RMSNorm + linear", "widths": [into, out], "merge": side(vision) ** 2 // token,
            "steps": "average pooling to the tokens of an image, RMSNorm, Linear without bias",
        },
        adapter_parameters=into + into * out, llm=text, llm_parameters=text_parameters,
        where="blank line, begin of image, the tokens, end of image, blank line",
        image=("fixed", {**tile, "token_per_tile": token, **pans}),
        video=("video_frames_as_tiles", {**tile, "token_per_frame": token}, {"max_frames": UNKNOWN}),
        formula=f"{token} * (1 + crops)", code="transformers, gemma3",
    )  # fmt: skip
