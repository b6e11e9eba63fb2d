"""SmolVLM: as Idefics3."""

from lvlm_atlas.drafts.model.families.idefics3 import parts

__all__ = ["parts"]
