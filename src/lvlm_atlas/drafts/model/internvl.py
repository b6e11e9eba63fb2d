"""What the two ways share in which InternVL is published."""

from __future__ import annotations

from typing import Any

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm, parameters
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import UNKNOWN, Source
from lvlm_atlas.fault import AtlasError


def parts_of(
    config: Source, given: Source, text_given: Source, *, rms: bool, qkv_bias: bool, qk_norm: bool, most: Any,
    least: Any, thumbnail: bool,
) -> Parts:  # fmt: skip
    """What a configuration of InternVL says.

    Raises:
        AtlasError: tokens are not merged by a whole number.
    """
    norm = "rmsnorm" if rms else "layernorm"
    vision = vit(given, class_token=True, position="learned absolute", norm=norm)
    hidden = vision["hidden"]
    # A scale for each of the two branches; where queries and keys are normalised, each over the whole width.
    layer = block(vision, qkv_bias=qkv_bias) + 2 * hidden + 2 * hidden * qk_norm
    rows = 3 * vision["patch_size"] ** 2 + 1 + 1 + side(vision) ** 2 + 1
    text, text_parameters = llm(text_given, config)
    ratio = config.data.get("downsample_ratio", 0.5)
    if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 < ratio <= 1 or (1 / ratio) % 1:
        raise AtlasError(f"{config.file}: downsample_ratio is {ratio!r}; it must be one over a whole number")
    merge = round(1 / ratio) ** 2
    into, out = merge * hidden, text["hidden"]
    per_tile = side(vision) ** 2 // merge
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"], "class_token": True}
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * layer,
        adapter={
            "type": f"pixel shuffle {ratio:g} + MLP", "widths": [into, out, out], "merge": merge,
            "steps": "pixel shuffle, LayerNorm, Linear, GELU, Linear",
        },
        adapter_parameters=2 * into + into * out + out + out * out + out, llm=text, llm_parameters=text_parameters,
        llm_active=parameters(text, 2, active=True) if "experts" in text else None,
        where="an opening tag, the tokens of each tile, a closing tag",
        image=(
            "dynamic_tiling",
            {**tile, "min_tiles": least, "max_tiles": most, "token_per_tile": per_tile, "thumbnail": thumbnail},
        ),
        video=("video_frames_as_tiles", {**tile, "token_per_frame": per_tile}, {"max_frames": UNKNOWN}),
        formula=f"{per_tile} * (n + [n > 1]), n = columns * rows of the closest aspect ratio",
        code="OpenGVLab/InternVL; transformers, internvl",
    )  # fmt: skip
