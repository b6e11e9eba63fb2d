"""InternVL, as its own repositories describe it."""

from __future__ import annotations

from lvlm_atlas.drafts.model.internvl import parts_of
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:  # noqa: ARG001 - all families are called alike
    """What a configuration of InternVL says."""
    vision = config.part("vision_config").read_by("InternVisionConfig")
    config = config.read_by("InternVLChatConfig")
    return parts_of(
        config, vision, config.part("llm_config"),
        rms=vision.word("norm_type") == "rms_norm",
        qkv_bias=vision.truth("qkv_bias"),
        qk_norm=vision.truth("qk_normalization"),
        most=config.number("max_dynamic_patch"),
        least=config.number("min_dynamic_patch"),
        thumbnail=config.truth("use_thumbnail"),
    )  # fmt: skip
