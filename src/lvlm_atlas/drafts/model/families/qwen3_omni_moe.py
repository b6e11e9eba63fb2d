"""Qwen3-Omni as it sees: the thinker's encoder and language model; what hears and speaks is left out."""

from __future__ import annotations

from dataclasses import replace

from lvlm_atlas.drafts.model.families import qwen3_vl
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen3-Omni says of its vision."""
    thinker = config.part("thinker_config") if "thinker_config" in config else config
    made = qwen3_vl.parts_of(
        thinker, processor, vision="Qwen3OmniMoeVisionEncoderConfig", kind="qwen3_omni_moe_text", code="qwen3_omni_moe"
    )  # fmt: skip
    return replace(made, notes=(*made.notes, "params: the audio encoder, the talker and its codec are not counted"))
