"""LLaVA in its authors' form, on Mistral."""

from lvlm_atlas.drafts.model.families.llava import parts

__all__ = ["parts"]
