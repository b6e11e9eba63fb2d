"""Qwen3-VL with a mixture of experts: as the dense one."""

from __future__ import annotations

from lvlm_atlas.drafts.model.families import qwen3_vl
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Qwen3-VL with experts says."""
    return qwen3_vl.parts_of(
        config, processor, vision="Qwen3VLVisionConfig", kind="qwen3_vl_moe_text", code="qwen3_vl_moe"
    )  # fmt: skip
