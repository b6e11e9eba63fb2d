"""Qwen3.5: Qwen3-VL's encoder before a language model that has a cache in every fourth layer only."""

from __future__ import annotations

from lvlm_atlas.drafts.model.families import qwen3_vl
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen3.5 says, dense or with experts."""
    return qwen3_vl.parts_of(config, processor, vision="Qwen3_5VisionConfig", kind="qwen3_5_text", code="qwen3_5")
