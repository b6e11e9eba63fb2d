"""Molmo: overlapping crops and the whole, features of two layers pooled by attention, one gated MLP."""

from __future__ import annotations

from typing import Any

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source

CLIP = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 336, "hidden_act": "quick_gelu",
}  # fmt: skip
"""The encoder, which the released code describes and the file does not."""
FEATURES = (-2, -9)
"""Layers whose outputs are concatenated."""
POOL, MARGIN, MAX_CROPS, ADDITIONAL_VOCAB = 2, 4, 12, 128
"""Patches along a side that become one token and that neighbouring crops share at each side; most crops of an image;
rows of the table of embeddings beyond those of the output matrix."""


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Molmo says, which holds the language model's own keys at the top."""
    vision = vit(Source(CLIP, "vision.", config.file, config.said), class_token=True, position="learned absolute")
    hidden, layers = vision["hidden"], vision["layers"]
    vision["layers_needed"] = layers + 1 + max(FEATURES)
    rows = 3 * vision["patch_size"] ** 2 + 1 + side(vision) ** 2 + 1 + 2  # a norm before all layers, none after
    text, text_parameters = _llm(config)
    into, inner, out = hidden * len(FEATURES), text["intermediate"], text["hidden"]
    pooling = 3 * (into + 1) * hidden + (hidden + 1) * hidden
    padding = 2 * into  # what stands for patches that are padding, all or in part
    most = processor.number("max_crops") if "max_crops" in processor else MAX_CROPS
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"], "class_token": True}
    return Parts(
        vision=vision, vision_parameters=rows * hidden + layers * block(vision),
        adapter={
            "type": "attention pooling + gated MLP", "widths": [into, hidden, inner, out], "merge": POOL**2,
            "gated": True, "pools_by_attention": True,
            "steps": "the mean of neighbours attends to them, Linear with gate, SiLU, Linear",
        },
        adapter_parameters=pooling + padding + 2 * hidden * inner + inner * out, llm=text,
        llm_parameters=text_parameters, where="the whole first, then the crops, each row ends with a mark",
        image=("overlapping_crops", {**tile, "pool": POOL, "margin": MARGIN, "max_crops": most}),
        formula="12 * 13 + rows * (columns + 1), of the crops' patches two by two",
        code="vllm-project/vllm, molmo.py at 0176b7b",
        notes=(
            "vision: shapes are those of the released code, which the file does not hold",
            "tokens.video: the family reads no video",
        ),
    )  # fmt: skip


def _llm(config: Source) -> tuple[dict[str, Any], float]:
    """The language model: its file counts both halves of the gated MLP's input together."""
    given = {**config.data, "intermediate_size": config.number("intermediate_size") // 2}
    if "embedding_size" in config:
        given["vocab_size"] = config.number("embedding_size")
    text, count = llm(Source(given, config.place, config.file, config.said), config, "molmo")
    count += ADDITIONAL_VOCAB * text["hidden"]
    if config.truth("attention_layer_norm"):  # over all heads together
        count += text["layers"] * (text["heads"] + text["kv_heads"]) * text["head_dim"]
        text["qk_norm"] = True
    return text, count
