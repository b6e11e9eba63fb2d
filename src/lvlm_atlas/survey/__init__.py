"""The survey's own numbers, held against the engine: what is printed, what comes out, and under which assumptions."""

from __future__ import annotations

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.survey import cache, cost, drafting, encoder, intensity, latency
from lvlm_atlas.survey.claim import Claim
from lvlm_atlas.survey.ground import Ground

_CLAIMS = (
    cache.images, cache.video, intensity.ridge, intensity.decode_weights, intensity.decode_cache, intensity.prefill,
    encoder.intensity, cost.prefill_time, cache.width, cost.complexity, cache.pilot_memory, latency.latency,
    drafting.speculation,
)  # fmt: skip


def survey_numbers(atlas: Atlas) -> tuple[Claim, ...]:
    """All claims, computed with the models and devices of an atlas.

    Raises:
        AtlasError: the atlas lacks one of them.
    """
    ground = Ground(atlas)
    return tuple(claim(ground) for claim in _CLAIMS)
