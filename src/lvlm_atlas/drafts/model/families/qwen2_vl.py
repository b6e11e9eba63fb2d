"""Qwen2-VL: native resolution, patches merged by two linear layers."""

from __future__ import annotations

from lvlm_atlas.drafts.model import qwen
from lvlm_atlas.drafts.model.encoders import block, vit
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source

_OF = "Qwen2VLVisionConfig"


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen2-VL says."""
    given = config.part("vision_config").read_by(_OF)
    ratio = given.number("mlp_ratio")
    width = given.number("embed_dim")
    vision = vit(
        given, class_token=False, position="2D RoPE", heads="num_heads", layers="depth", hidden="embed_dim",
        attention="full within each temporal patch", image_size=False, mlp=ratio * width,
    )  # fmt: skip
    vision["hidden"], vision["head_dim"] = width, width // vision["heads"]
    vision["temporal_patch_size"] = given.number("temporal_patch_size")
    merge = given.number("spatial_merge_size")
    text, text_parameters = qwen.text_of(config, "qwen2")
    widths, adapter_parameters = qwen.merger(vision, merge, text["hidden"], 2 * width)
    patch = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * width
    return Parts(
        vision=vision, vision_parameters=patch + vision["layers"] * block(vision),
        adapter={
            "type": "patch merger MLP", "widths": widths, "merge": merge**2,
            "steps": "LayerNorm, neighbours concatenated, Linear, GELU, Linear",
        },
        adapter_parameters=adapter_parameters, llm=text, llm_parameters=text_parameters,
        code="transformers, qwen2_vl; qwen-vl-utils for videos", **qwen.tokens(vision, merge, processor),
    )  # fmt: skip
