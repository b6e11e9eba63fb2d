"""What techniques leave of a request, one record for each stretch of the pipeline. Nothing in them is per batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lvlm_atlas.roofline.transform import CacheBits, How, Names, changed
from lvlm_atlas.roofline.visual import Visual


@dataclass(frozen=True, slots=True)
class Extra:
    """What one technique adds at a stage, for one request; in decoding, at each step."""

    technique: str
    stage: str
    flop: float | None = None
    byte: float = 0.0
    rows: float = 0.0
    """Rows of attention formed, a head: over all layers together, or in each of `layers`."""
    layers: tuple[float, float] | None = None
    """The first layer whose rows are formed and the first after them; None: rows are counted over all layers."""
    heads: float | None = None
    """Heads whose rows are formed; None: all."""
    memory_byte: float = 0.0
    steps: float = 0.0
    """Steps that follow one another, each with a kernel of its own."""
    host_syncs: float = 0.0
    """Times that the host waits for the device."""
    serial: bool = False
    """Whether the requests of a batch take steps and waits one after the other."""

    def among(self, layers: int) -> range:
        """Indices of the layers whose rows are formed, of a model of so many."""
        start, end = self.layers or (0, layers)
        return range(max(0, math.ceil(start)), math.ceil(min(layers, end)))

    def kernels(self, batch: int) -> float:
        """Kernels that it starts for a batch; a wait of the host counts as one."""
        return (batch if self.serial else 1) * (max(1.0, self.steps) + self.host_syncs)


@dataclass(frozen=True, slots=True)
class Shares:
    """What is left of the LLM itself, whatever it runs on."""

    weights: float = 1.0
    """Share of its weights."""
    kv_layers: float = 1.0
    """Share of its layers that hold keys and values of their own."""


Replaced = tuple[tuple[How, float], ...]
"""Changes of the FLOPs of a part of the model, in order; empty: they are those of the model."""


def replaced(flop: float, changes: Sequence[tuple[How, float]]) -> float:
    """The FLOPs of a part of the model after these changes."""
    for how, amount in changes:
        flop = changed(flop, how, amount)
    return flop


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What frame selection, encoder and adapter hand to the LLM."""

    visual: Visual
    """The visual input after frame and pixel reduction."""
    file_s: float = 0.0
    """Seconds in which the host decodes the files of the request."""
    encoder_patch: tuple[tuple[float, ...], ...]
    """For each shape of encoder sequence, the patches that enter each layer, and last those that leave."""
    encoder_density: tuple[float, ...]
    """Share of the scores that each encoder layer computes."""
    encoder_flop: Replaced = ()
    """Changes of the FLOPs of the encoder's layers for the request."""
    adapter_share: float
    """Share of the adapter's rows that is left."""
    adapter_flop: Replaced = ()
    """Changes of the FLOPs of the adapter for the request."""
    vision: float
    """Vision tokens that enter the LLM, or its cross-attention layers."""
    marker: float
    """Visual positions of the sequence that carry no vision token: those of a model with cross-attention."""
    text: int
    """Text tokens of the prompt that enter the LLM."""
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
    queries: tuple[float, ...]
    """Vision tokens that are queries of the layer's attention."""
    mlp: tuple[float, ...]
    """Vision tokens that pass through the layer's MLP."""
    density: tuple[float, ...]
    """Share of the score matrix that is computed."""
    state: tuple[float, ...]
    """Numbers in the constant state that a key-value head keeps in place of a cache; 0: there is a cache."""
    shares: Shares = Shares()
    """What is left of the LLM."""


class Limits(NamedTuple):
    """The most entries that a layer holds at any step of decoding, a head."""

    all: float = math.inf
    vision: float = math.inf
    text: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """The KV cache once the prompt is in."""

    vision: tuple[float, ...]
    """Vision entries of each layer, a key-value head."""
    text: tuple[float, ...]
    """Text entries alike."""
    limits: tuple[Limits, ...]
    """The most entries that each layer holds while decoding, a head."""
    state: tuple[float, ...]
    """Numbers in the constant state of a key-value head of each layer; 0: it has a cache."""
    read: tuple[float, ...]
    """Share of each layer's entries that a decoding step reads."""
    bits: tuple[CacheBits, ...] = ()
    """Ways in which entries are quantised, as numbers and functions of `N`."""
    stored: tuple[tuple[int, int], ...]
    """For each layer, which of `bits` its vision and its text entries have; -1: none."""
    shares: Shares = Shares()
    """What is left of the LLM."""
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
    depth: float = 1.0
    """Share of the LLM's layers that a decoding step runs, on average."""
    shares: Shares = Shares()
    """What is left of the LLM."""
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
