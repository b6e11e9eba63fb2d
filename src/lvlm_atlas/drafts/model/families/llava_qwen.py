"""LLaVA in its authors' form, on Qwen2."""

from lvlm_atlas.drafts.model.families.llava import parts

__all__ = ["parts"]
