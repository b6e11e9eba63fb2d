"""Qwen3.5 with a mixture of experts: as the dense one."""

from __future__ import annotations

from lvlm_atlas.drafts.model.families import qwen3_vl
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen3.5 with experts says."""
    return qwen3_vl.parts_of(
        config, processor, vision="Qwen3_5VisionConfig", kind="qwen3_5_moe_text", code="qwen3_5_moe"
    )  # fmt: skip
