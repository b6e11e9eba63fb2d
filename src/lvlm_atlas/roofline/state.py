"""The state of a request on its way through the pipeline: what each stage is left with by the techniques before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.roofline.transform import CacheBits
from lvlm_atlas.roofline.visual import Visual


@dataclass(frozen=True, slots=True)
class Extra:
    """What one technique adds at a stage, evaluated: for one request; in decoding, at each step."""

    technique: str
    stage: str
    flop: float | None
    byte: float
    rows: float
    memory_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is left of one request, batch aside. Tuples over layers have the LLM's length unless they say otherwise."""

    visual: Visual
    """The visual input after frame and pixel reduction."""
    encoder_patch: tuple[tuple[float, ...], ...]
    """For each shape of encoder sequence, the patches that enter each layer, and last those that leave."""
    adapter_share: float
    """Share of the adapter's rows that is left."""
    vision: float
    """Vision tokens that enter the LLM, or its cross-attention layers."""
    marker: float
    """Visual positions of the sequence that carry no vision token: those of a model with cross-attention."""
    text: int
    """Text tokens of the prompt."""
    vision_at: tuple[float, ...]
    """Vision tokens alive in each LLM layer."""
    density: tuple[float, ...]
    """Share of the score matrix computed in each LLM layer."""
    cached_vision: tuple[float, ...]
    """Vision entries in the cache of each layer, a key-value head, once the prompt is in."""
    cached_text: tuple[float, ...]
    """Text entries alike."""
    bits: tuple[CacheBits, Mapping[str, float]] | None
    """How the cache is quantised, and the parameters that say so."""
    resident: float
    """Share of the cache on the device."""
    fetch: float
    """Share of the cache fetched at each step."""
    draft_nodes: float
    """Tokens verified beside the last one in a round of decoding; 0: no speculation."""
    draft_passes: float
    """Passes of the draft in a round."""
    accepted: float
    """Drafted tokens accepted in a round."""
    draft_cost: float
    """Time of a draft pass, in plain steps."""
    output: int
    """Tokens generated for each question."""
    extras: tuple[Extra, ...]
    """What techniques add."""

    @property
    def sequence_vision(self) -> tuple[float, ...]:
        """Visual positions of the sequence in each LLM layer."""
        return (self.marker,) * len(self.vision_at) if self.visual.cross_token else self.vision_at
