"""Qwen3-VL: learned positions beside rotary ones, and adapters of their own for three inner layers."""

from __future__ import annotations

from lvlm_atlas.drafts.model import qwen
from lvlm_atlas.drafts.model.encoders import block, vit
from lvlm_atlas.drafts.model.llms import parameters
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source

_OF = "Qwen3VLVisionConfig"


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen3-VL says, dense or with experts."""
    given = config.part("vision_config").read_by(_OF)
    vision = vit(
        given, class_token=False, position="learned, interpolated, and 2D RoPE", heads="num_heads", layers="depth",
        attention="full within each temporal patch", image_size=False,
    )  # fmt: skip
    vision["temporal_patch_size"] = given.number("temporal_patch_size")
    merge = given.number("spatial_merge_size")
    inner = given.numbers("deepstack_visual_indexes")
    vision["deepstack_layers"] = list(inner)
    text, text_parameters = qwen.text_of(config, "qwen3")
    hidden = vision["hidden"]
    widths, main = qwen.merger(vision, merge, text["hidden"], 2 * hidden)
    _, other = qwen.merger(vision, merge, text["hidden"], 2 * hidden * merge**2)
    patch = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * hidden + hidden
    positions = given.number("num_position_embeddings") * hidden
    return Parts(
        vision=vision, vision_parameters=patch + positions + vision["layers"] * block(vision),
        adapter={
            "type": "patch merger MLP", "widths": widths, "copies": 1 + len(inner), "merge": merge**2,
            "steps": "neighbours concatenated, Linear, GELU, Linear; LayerNorm before it, in the deepstack ones after",
        },
        adapter_parameters=main + len(inner) * other, llm=text, llm_parameters=text_parameters,
        llm_active=parameters(text, 2, active=True) if "experts" in text else None,
        injection="concat-deepstack" if inner else "concat",
        code="transformers, qwen3_vl; qwen-vl-utils for videos", **qwen.tokens(vision, merge, processor, served=True),
    )  # fmt: skip
