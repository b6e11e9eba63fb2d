"""Molmo2: overlapping crops and the whole, features of two layers pooled by attention, one gated MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lvlm_atlas.drafts.model.encoders import block, side, vit
from lvlm_atlas.drafts.model.llms import llm
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import UNKNOWN, Source

NAMES = {
    "image_default_input_size": "image_size", "image_patch_size": "patch_size",
    "image_num_pos": "num_position_embeddings", "vit_layers": "vision_feature_layer", "qkv_bias": "attention_bias",
}  # fmt: skip
"""Names that transformers has for keys of the released files."""
FRAME_POOL = 3
"""Patches along a side that become one token in a frame of a video."""


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Molmo2 says, in the form of transformers or of its authors.

    Raises:
        AtlasError: a number is none.
    """
    given = _renamed(config.part("vision_config", "vit_config")).read_by("Molmo2VisionConfig")
    joint = _renamed(config.part("adapter_config")).read_by("Molmo2AdapterConfig")
    vision = vit(given, class_token=False, position="learned absolute")
    hidden, layers = vision["hidden"], vision["layers"]
    features = joint.data.get("vision_feature_layer") or [24, 18]
    used = [Source({"layer": each % layers}, joint.place, joint.file).number("layer", least=0) for each in features]
    if "vit_config" in config:  # the released weights end with the deepest layer that is used
        vision["layers"] = layers = max(used) + 1
    vision["layers_needed"] = max(used) + 1
    positions = given.number("num_position_embeddings") if "num_position_embeddings" in given else side(vision) ** 2
    rows = 3 * vision["patch_size"] ** 2 + 1 + positions
    text, text_parameters = _llm(_renamed(config.part("text_config")), config)
    into, width = hidden * len(used), joint.number("num_attention_heads") * joint.number("head_dim")
    inner, out = joint.number("intermediate_size"), text["hidden"]
    pool = processor.number("pooling_size")
    tile = {"tile": vision["image_size"], "patch": vision["patch_size"]}
    return Parts(
        vision=vision, vision_parameters=rows * hidden + layers * block(vision),
        adapter={
            "type": "attention pooling + gated MLP", "widths": [into, width, inner, out], "merge": pool**2,
            "gated": True, "pools_by_attention": True,
            "steps": "the mean of neighbours attends to them, Linear with gate, SiLU, Linear",
        },
        adapter_parameters=3 * (into + 1) * width + (width + 1) * width + 2 * width * inner + inner * out, llm=text,
        llm_parameters=text_parameters, where="the whole first, then the crops, each row ends with a mark",
        image=(
            "overlapping_crops",
            {
                **tile, "pool": pool, "margin": processor.number("overlap_margins"),
                "max_crops": processor.number("max_crops"),
            },
        ),
        video=(
            "video_frames_as_tiles",
            {**tile, "class_token": False, "token_per_frame": (-(-side(vision) // FRAME_POOL)) ** 2},
            {"max_frames": UNKNOWN},
        ),
        formula="14 * 15 + rows * (columns + 1), of the crops' patches two by two", code="transformers, molmo2",
        notes=("frames of videos are pooled three by three; the adapter's work is counted for two by two",),
    )  # fmt: skip


def _renamed(given: Source) -> Source:
    return replace(given, data={NAMES.get(key, key): value for key, value in given.data.items()})


def _llm(given: Source, config: Source) -> tuple[dict[str, Any], float]:
    """The language model, whose table of embeddings has more rows than its output matrix."""
    text, count = llm(given, config, "molmo2_text")
    given = given.read_by("Molmo2TextConfig")
    count += given.number("additional_vocab_size", least=0) * text["hidden"] * (not text["tied_embeddings"])
    if given.word("qk_norm_type") == "olmo":  # norms over all heads together
        count += text["layers"] * (text["heads"] + text["kv_heads"] - 2) * text["head_dim"]
    return text, count
