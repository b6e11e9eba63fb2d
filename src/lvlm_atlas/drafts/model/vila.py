"""VILA and NVILA as their authors publish them: a configuration that holds those of its three parts."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from lvlm_atlas.drafts.model.encoders import encoder, needed, side
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source
from lvlm_atlas.fault import AtlasError

DOWNSAMPLED = {"mlp_downsample": 2, "mlp_downsample_2x2_fix": 2, "mlp_downsample_3x3_fix": 3}
"""Patches along a side that projectors concatenate, by `mm_projector_type`."""
MAX_TILES = 12
"""Most tiles where the file names none, as in the released code."""


def is_one(config: Source) -> bool:
    """Whether a configuration has this form."""
    return "llm_cfg" in config


def parts(config: Source) -> Parts:
    """What it says.

    Raises:
        AtlasError: it names an encoder or projector that is not known, or prepares images in no known way.
    """
    vision, vision_parameters = encoder(config.part("vision_tower_cfg"))
    needed(vision, config.data.get("mm_vision_select_layer", -2), config.file)
    given = config.part("llm_cfg")
    text, text_parameters = llm(given, config)
    if "model_max_length" in given:
        text["context"] = given.number("model_max_length")
    adapter, adapter_parameters = _adapter(config, text["hidden"])
    merge = round(adapter["merge"] ** 0.5)
    token = (-(-side(vision) // merge)) ** 2
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"], "class_token": vision["cls_token"]}
    image, formula = _image(config, tile, token)
    return Parts(
        vision=vision, vision_parameters=vision_parameters, adapter=adapter, adapter_parameters=adapter_parameters,
        llm=text, llm_parameters=text_parameters, where="image tokens followed by a line break token", image=image,
        video=(
            "video_frames_as_tiles", {**tile, "token_per_frame": token},
            {"max_frames": config.number("num_video_frames")},
        ),
        formula=formula, code="NVlabs/VILA, base_projector.py and mm_utils.py",
        notes=("where a request has several images, the released code does not tile them",),
    )  # fmt: skip


def _adapter(config: Source, out: Any) -> tuple[dict[str, Any], float]:
    """The projector, and its parameters."""
    given = config.part("mm_projector_cfg")
    kind, into = given.text("mm_projector_type") or "", config.number("mm_hidden_size")
    match, merge = re.fullmatch(r"mlp(\d{1,2})x_gelu", kind), DOWNSAMPLED.get(kind, 1)
    if merge == 1 and kind != "linear" and not (match and int(match[1])):
        raise AtlasError(
            f"{config.file}: {given.place}mm_projector_type is {kind!r}; only linear, mlp2x_gelu and "
            f"{', '.join(DOWNSAMPLED)} can be drafted"
        )
    widths = [into * merge**2, *([into * merge] if merge == 3 else []), *[out] * (int(match[1]) if match else 2)]
    widths = widths[:2] if kind == "linear" else widths
    normed = widths[: merge - 1]  # before the first layer, and where nine patches are one before the second
    steps = ", GELU, ".join(["Linear"] * (len(widths) - 1))
    return {
        "type": kind, "widths": widths, "merge": merge**2,
        "steps": f"{merge}x{merge} patches concatenated, LayerNorm, {steps}" if normed else f"{steps} on each patch",
    }, sum((a + 1) * b for a, b in pairwise(widths)) + 2 * sum(normed)  # fmt: skip


def _image(config: Source, tile: dict[str, Any], token: Any) -> tuple[tuple[str, dict[str, Any]], str]:
    """The rule for images with its arguments, and the rule for readers."""
    ratio, most = config.text("image_aspect_ratio") or "resize", MAX_TILES
    if "max_tiles" in config:
        most = config.number("max_tiles")
    elif ratio.startswith("dynamic"):
        config.said.append(f"max_tiles is not in {config.file}: the released code takes {MAX_TILES}")
    if ratio == "dynamic_s2":
        rule = {"patch": tile["patch"], "scales": _scales(config), "max_tiles": most, "token_per_tile": token}
        return ("dynamic_s2", rule), f"{token} * tiles of the last scale"
    if ratio == "dynamic":
        limits = {"min_tiles": 1, "max_tiles": most, "token_per_tile": token, "thumbnail": True}
        return ("dynamic_tiling", {**tile, **limits}), f"{token} * (n + [n > 1]), n tiles of the closest aspect ratio"
    if ratio not in ("resize", "square", "pad"):
        raise AtlasError(
            f"{config.file}: image_aspect_ratio is {ratio!r}; only resize, square, pad, dynamic and dynamic_s2 can be "
            "drafted"
        )
    return ("fixed", {**tile, "token_per_tile": token}), f"{token}, whatever the size"


def _scales(config: Source) -> list[int]:
    """Sides of the scales, as the file lists them in a text."""
    given = config.text("s2_scales") or ""
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", given):
        raise AtlasError(f"{config.file}: s2_scales is {config.data.get('s2_scales')!r}; it must be such as '448,896'")
    return [int(each) for each in given.split(",")]
