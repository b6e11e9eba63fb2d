"""InternVL, as transformers describes it."""

from __future__ import annotations

from lvlm_atlas.drafts.model.internvl import parts_of
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of InternVL says."""
    vision = config.part("vision_config").read_by("InternVLVisionConfig")
    return parts_of(
        config, vision, config.part("text_config"),
        rms=vision.word("norm_type") == "rms_norm",
        qkv_bias=vision.truth("attention_bias"),
        qk_norm=vision.truth("use_qk_norm"),
        most=processor.number("max_patches"), least=processor.number("min_patches"), thumbnail=True,
    )  # fmt: skip
