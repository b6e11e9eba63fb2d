"""LLaVA in its authors' form, on a Llama; VILA and NVILA have the same name."""

from __future__ import annotations

from lvlm_atlas.drafts.model import vila
from lvlm_atlas.drafts.model.families import llava
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of LLaVA says, or of VILA."""
    return vila.parts(config) if vila.is_one(config) else llava.parts(config, processor)
