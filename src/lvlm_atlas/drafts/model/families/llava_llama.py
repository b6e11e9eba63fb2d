"""LLaVA in its authors' form, on a Llama."""

from lvlm_atlas.drafts.model.families.llava import parts

__all__ = ["parts"]
