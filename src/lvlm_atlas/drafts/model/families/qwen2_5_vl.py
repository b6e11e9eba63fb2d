"""Qwen2.5-VL: windows in most layers of the encoder, a gated MLP, root-mean-square norms."""

from __future__ import annotations

from lvlm_atlas.drafts.model import qwen
from lvlm_atlas.drafts.model.encoders import block, vit
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source

_OF = "Qwen2_5_VLVisionConfig"


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen2.5-VL says."""
    given = config.part("vision_config").read_by(_OF)
    vision = vit(
        given, class_token=False, position="2D RoPE", heads="num_heads", layers="depth", gated=True, norm="rmsnorm",
        attention="windows, but for the layers that see a whole temporal patch", image_size=False,
    )  # fmt: skip
    vision["temporal_patch_size"] = given.number("temporal_patch_size")
    merge = given.number("spatial_merge_size")
    window = given.number("window_size") // vision["patch_size"]
    vision["window"] = {
        "patches": [window, window],
        "full_attention_layers": list(given.numbers("fullatt_block_indexes")) or None,
    }
    text, text_parameters = qwen.text_of(config, "qwen2")
    widths, adapter_parameters = qwen.merger(vision, merge, text["hidden"], vision["hidden"])
    patch = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * vision["hidden"]
    return Parts(
        vision=vision, vision_parameters=patch + vision["layers"] * block(vision),
        adapter={
            "type": "patch merger MLP", "widths": widths, "merge": merge**2,
            "steps": "RMSNorm, neighbours concatenated, Linear, GELU, Linear",
        },
        adapter_parameters=adapter_parameters, llm=text, llm_parameters=text_parameters,
        code="transformers, qwen2_5_vl; qwen-vl-utils for videos",
        **qwen.tokens(vision, merge, processor, window // merge),
    )  # fmt: skip
