"""Qwen3-VL with a mixture of experts: as the dense one."""

from lvlm_atlas.drafts.model.families.qwen3_vl import parts

__all__ = ["parts"]
