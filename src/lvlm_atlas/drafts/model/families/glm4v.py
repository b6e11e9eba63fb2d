"""GLM-4.1V: native resolution, patches merged by a convolution, a gated MLP behind it."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm, parameters
from lvlm_atlas.drafts.model.parts import Parts, pixels
from lvlm_atlas.drafts.model.source import Source

VIDEO_PIXELS = {"min_pixels": 12544, "max_pixels": 47040000}
"""Least and most pixels of a clip, of the class of the family's video processor in transformers."""


def parts(config: Source, processor: Source, kind: str = "glm4v") -> Parts:
    """What a configuration of GLM-4.1V says, or of GLM-4.5V, which has experts."""
    given = config.part("vision_config").read_by("Glm4vVisionConfig")
    out, inner = given.number("out_hidden_size"), given.number("intermediate_size")
    # The MLP of the encoder is as wide as what leaves it; `intermediate_size` is the merger's.
    vision = vit(
        given, class_token=False, position="learned, interpolated, and 2D RoPE", heads="num_heads", layers="depth",
        gated=True, norm="rmsnorm", attention="full within each temporal patch", mlp=out,
    )  # fmt: skip
    vision["temporal_patch_size"] = temporal = given.number("temporal_patch_size")
    merge, bias, hidden = given.number("spatial_merge_size"), given.truth("attention_bias"), vision["hidden"]
    rows = 3 * temporal * vision["patch_size"] ** 2 + 1 + side(vision) ** 2 + 2
    # No bias but, where it says so, those of queries, keys and values.
    layer = block(vision, qkv_bias=bias, other_bias=False)
    positions = vision.pop("image_size")
    text, text_parameters = llm(config.part("text_config"), config, f"{kind}_text")
    text["position_axes"] = 3
    shared = {"patch": vision["patch_size"], "merge": merge, "temporal": temporal}
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * layer,
        adapter={
            "type": "patch merger + gated MLP", "widths": [hidden * merge**2, out, out, inner, out], "gated": True,
            "merge": merge**2, "steps": "RMSNorm, convolution over neighbours, Linear, LayerNorm, GELU, gated MLP",
        },
        adapter_parameters=merge**2 * hidden * out + out + out * out + 2 * out + 3 * out * inner, llm=text,
        llm_parameters=text_parameters,
        llm_active=parameters(text, 2, active=True) if "experts" in text else None,
        where="begin of image, the tokens, end of image; in video a time stamp behind each temporal patch",
        image=(
            "still_clip_resize",
            {
                **shared, "min_pixels": pixels(processor, "min_pixels", "shortest_edge"),
                "max_pixels": pixels(processor, "max_pixels", "longest_edge"),
            },
        ),
        video=("video_clip_resize", {**shared, **VIDEO_PIXELS}, {"min_frames": 2, "max_frames": 600}),
        formula="sides rounded to multiples of patch times merge, within limits of a clip that repeats the image",
        code=f"transformers, {kind}",
        notes=(f"vision.image_size: {positions} is only that of its table of positions, which is interpolated",),
    )  # fmt: skip
