"""Kimi-K2.5: Kimi-VL's encoder before Kimi-K2."""

from __future__ import annotations

from lvlm_atlas.drafts.model.families import kimi_vl
from lvlm_atlas.drafts.model.parts import Parts
from lvlm_atlas.drafts.model.source import Source


def parts(config: Source, processor: Source) -> Parts:
    """What a configuration of Kimi-K2.5 says, in the form of transformers or of its authors."""
    given = config.part("vision_config")
    renamed = {key.removeprefix("vt_"): value for key, value in given.data.items()}
    given = Source(renamed, given.place, given.file, given.said, "Kimi_K25VisionConfig")
    released = processor.part("media_proc_cfg")
    limit = released.number("in_patch_limit") if released.data else processor.number("max_patches")
    return kimi_vl.parts_of(config, given, limit, code="transformers, kimi_k25")
