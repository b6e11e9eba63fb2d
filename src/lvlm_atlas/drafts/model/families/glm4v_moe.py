"""GLM-4.5V: as GLM-4.1V, with a mixture of experts."""

from __future__ import annotations

from lvlm_atlas.drafts.model.families import glm4v
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of GLM-4.5V says."""
    return glm4v.parts(config, processor, "glm4v_moe")
