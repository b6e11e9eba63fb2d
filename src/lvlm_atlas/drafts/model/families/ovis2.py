"""Ovis2: AIMv2 on tiles, whose patches become shares of a visual vocabulary and so a mean of its embeddings."""

from __future__ import annotations

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Ovis2 says."""
    given = config.part("vision_config").read_by("Ovis2VisionConfig")
    vision = vit(given, class_token=False, position="learned absolute", gated=True, norm="rmsnorm")
    hidden, stride = vision["hidden"], given.number("hidden_stride")
    layer = block(vision, qkv_bias=False, other_bias=False)
    qkv_bias, mlp_bias = given.truth("qkv_bias"), given.truth("mlp_bias")
    layer += 4 * hidden * qkv_bias + (2 * vision["mlp"] + hidden) * mlp_bias
    rows = 3 * vision["patch_size"] ** 2 + 1 + side(vision) ** 2 + 2  # a norm before all layers and one after
    text, text_parameters = llm(config.part("text_config"), config, "qwen2")
    table = given.number("vocab_size")
    words = table - given.number("num_visual_indicator_tokens", least=0)
    into, out = hidden * stride**2, text["hidden"]
    token = (-(-side(vision) // stride)) ** 2
    return Parts(
        vision=vision, vision_parameters=rows * hidden + vision["layers"] * layer,
        adapter={
            "type": "visual vocabulary", "widths": [into, words, out], "merge": stride**2,
            "steps": "neighbours concatenated, Linear without bias, LayerNorm, softmax, mean of the visual embeddings",
        },
        adapter_parameters=into * words + 2 * words + table * out, llm=text, llm_parameters=text_parameters,
        where="start, the whole, a mark, tiles with marks between columns and rows, end",
        image=(
            "covering_tiles",
            {
                "tile": vision["image_size"], "patch": vision["patch_size"],
                "max_tiles": processor.number("max_patches"), "token_per_tile": token,
            },
        ),
        formula=f"{token} * (tiles + 1, or 1) + 3 + tiles - 1", code="transformers, ovis2",
        notes=("tokens.video: the processor says nothing of videos, so no rule is written",),
    )  # fmt: skip
