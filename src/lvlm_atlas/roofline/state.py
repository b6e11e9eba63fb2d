"""What techniques leave of a request, one record for each stretch of the pipeline. Nothing in them is per batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lvlm_atlas.roofline.transform import CacheBits, Names
from lvlm_atlas.roofline.visual import Visual


@dataclass(frozen=True, slots=True)
class Extra:
    """What one technique adds at a stage, for one request; in decoding, at each step."""

    technique: str
    stage: str
    flop: float | None
    byte: float
    rows: float
    memory_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What frame selection, encoder and adapter hand to the LLM."""

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
    """Text tokens of the prompt, and of each further question."""
    symbols: Names = field(compare=False)
    """What the symbols stand for from here on."""
    first: Mapping[str, Names] = field(compare=False)
    """What they stood for where each technique that acts up to here first acts, by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """The pass over the prompt, by LLM layer."""

    vision: tuple[float, ...]
    """Vision tokens alive in the layer."""
    text: tuple[float, ...]
    """Other positions: text tokens and markers."""
    density: tuple[float, ...]
    """Share of the score matrix that is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """The KV cache once the prompt is in."""

    vision: tuple[float, ...]
    """Vision entries of each layer, a key-value head."""
    text: tuple[float, ...]
    """Text entries alike."""
    bits: tuple[CacheBits, Names] | None = None
    """How it is quantised, and what the names in that stand for; None: not at all."""
    resident: float = 1.0
    """Share of it on the device."""
    fetch: float = 0.0
    """Share of it fetched from the host at each step."""

    @property
    def entries(self) -> float:
        """Entries of a layer, a head, on average over the layers."""
        return (sum(self.vision) + sum(self.text)) / len(self.vision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One round of speculative decoding; all zero: there is no draft."""

    length: float = 0.0
    """Tokens on the longest drafted path."""
    nodes: float = 0.0
    """Tokens that the target verifies beside the last one."""
    passes: float = 0.0
    """Passes of the draft."""
    accepted: float = 0.0
    """Drafted tokens accepted."""
    cost: float = 0.0
    """Time of a draft pass, in plain steps of the target."""
    vision_tokens: float = 0.0
    """Vision tokens in the draft's own cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """How each answer is generated."""

    output: int
    """Its tokens."""
    draft: Draft = Draft()
    symbols: Names = field(compare=False)
    """What the symbols stand for in the end."""
    first: Mapping[str, Names] = field(compare=False)
    """What they stood for where each technique that changes the output first acts, by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a stack leaves of a request."""

    encoded: Encoded
    prefilled: Prefilled
    cached: Cached
    answered: Answered
    extras: tuple[Extra, ...] = ()
    """What techniques add."""

    @property
    def visual(self) -> Visual:
        """The visual input after frame and pixel reduction."""
        return self.encoded.visual

    @property
    def vision(self) -> float:
        """Vision tokens that enter the LLM, or its cross-attention layers."""
        return self.encoded.vision

    @property
    def output(self) -> int:
        """Tokens generated for each question."""
        return self.answered.output
