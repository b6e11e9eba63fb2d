"""Qwen3-VL: learned positions beside rotary ones, and adapters of their own for three inner layers."""

from __future__ import annotations

from lvlm_atlas.drafts.model import qwen
from lvlm_atlas.drafts.model.encoders import block, vit
from lvlm_atlas.drafts.model.llms import parameters
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen3-VL says."""
    return parts_of(config, processor, vision="Qwen3VLVisionConfig", kind="qwen3_vl_text", code="qwen3_vl")


def parts_of(config: Source, processor: Source, *, vision: str, kind: str, code: str) -> Parts:
    """What a configuration of Qwen3-VL says, or of a successor that has its encoder, dense or with experts.

    Args:
        config: the configuration.
        processor: that of its processor.
        vision: class of the encoder's configuration.
        kind: kind of the language model, where the file leaves it out.
        code: its module in transformers.
    """
    return _parts(config, processor, config.part("vision_config").read_by(vision), kind, code)


def _parts(config: Source, processor: Source, given: Source, kind: str, code: str) -> Parts:
    vision = vit(
        given, class_token=False, position="learned, interpolated, and 2D RoPE", heads="num_heads", layers="depth",
        attention="full within each temporal patch", image_size=False,
    )  # fmt: skip
    vision["temporal_patch_size"] = given.number("temporal_patch_size")
    merge = given.number("spatial_merge_size")
    inner = given.numbers("deepstack_visual_indexes")
    vision["deepstack_layers"] = list(inner)
    text, text_parameters = qwen.text_of(config, kind)
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
        code=f"transformers, {code}; qwen-vl-utils for videos", **qwen.tokens(vision, merge, processor, served=True),
    )  # fmt: skip
