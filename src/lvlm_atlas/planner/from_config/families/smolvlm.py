"""SmolVLM: as Idefics3."""

from lvlm_atlas.planner.from_config.families.idefics3 import parts

__all__ = ["parts"]
