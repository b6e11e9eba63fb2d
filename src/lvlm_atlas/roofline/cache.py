"""What the cache of a layer holds as an answer grows, and how many bytes that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.roofline.kind import Kind
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.state import State

SAMPLES = 48
"""Steps at which a quantised cache is looked at; its bytes rise and fall with the length."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Held:
    """The cache of one layer, for one request."""

    entries: float
    """Entries a head."""
    vision: float
    """The vision entries among them."""
    byte: float
    """Bytes of all of them."""

    @property
    def vision_byte(self) -> float:
        """Bytes of the vision entries."""
        return self.byte * self.vision / self.entries if self.entries else 0.0


def held(layout: Layout, state: State, kind: Kind, grown: float) -> Held:
    """The cache once `grown` tokens have followed the first prompt.

    A sliding window keeps the newest: text follows the vision tokens, so those go first.
    """
    if kind.cross:
        entries = vision = kind.cached_vision
    else:
        newer = kind.cached_text + grown
        most = math.inf if kind.window is None else kind.window
        entries = min(most, kind.cached_vision + newer)
        vision = kind.cached_vision if kind.window is None else entries - min(most, newer)
    return Held(entries, vision, cache_byte(layout, state, entries))


def mean_held(layout: Layout, state: State, kind: Kind, turns: int) -> Held:
    """The cache on average over all decoding steps, each of which sees its own entry too.

    Exact, but for the bytes of a quantised cache whose exact part depends on the length: those are the mean of
    `SAMPLES` steps, spread evenly and at no fixed distance so that they fall in step with no period.
    """
    if kind.cross:
        return held(layout, state, kind, 0)
    steps, question = state.output - 1, state.text + state.output
    entries = vision = 0.0
    for turn in range(turns):
        newer = kind.cached_text + turn * question
        all_ = _rising(kind.cached_vision + newer, steps, kind.window)
        entries += all_
        vision += kind.cached_vision * steps if kind.window is None else all_ - _rising(newer, steps, kind.window)
    total = turns * steps
    if state.bits is None or not state.bits[0].uneven:
        byte = cache_byte(layout, state, entries / total)
    else:
        count = min(total, SAMPLES)
        places = range(total) if total <= SAMPLES else [int(total * ((i + 0.5) * _GOLDEN % 1)) for i in range(count)]
        grown = (place // steps * question + place % steps + 1 for place in places)
        byte = sum(held(layout, state, kind, each).byte for each in grown) / count
    return Held(entries / total, vision / total, byte)


def cache_byte(layout: Layout, state: State, entries: float) -> float:
    """Bytes of one layer's cache with so many entries a head, for one request."""
    llm = layout.model.llm
    full = 8 * layout.kv_byte
    key_bit, value_bit, exact_keys, exact_values = _bits(state, entries, full)
    bits = (entries - exact_keys) * key_bit + (entries - exact_values) * value_bit + (exact_keys + exact_values) * full
    if llm.latent:  # one latent stands for key and value
        return bits / 2 / 8 * (llm.latent.kv_lora_rank + llm.latent.rope_dim)
    return bits / 8 * llm.kv_heads * llm.head_dim


def _rising(start: float, steps: int, most: float | None) -> float:
    """Sum of min(most, start + i) over i = 1, …, steps."""
    rising = steps if most is None else min(steps, max(0, math.floor(most - start)))
    return rising * start + rising * (rising + 1) / 2 + (steps - rising) * (most or 0)


def _bits(state: State, entries: float, full: float) -> tuple[float, float, float, float]:
    """Bits of a quantised key and value with their share of the group, and how many of each stay exact."""
    if state.bits is None:
        return full, full, 0.0, 0.0
    bits, names = state.bits
    amounts = (
        bits.key, bits.value, bits.group_overhead_bit, bits.group_size, bits.full_precision_keys,
        bits.full_precision_values,
    )  # fmt: skip
    at: Mapping[str, float] = {**names, "N": entries} if any(map(callable, amounts)) else names
    key, value_, overhead, size, keys, values = [each(at) if callable(each) else each for each in amounts]
    group = overhead / size
    return key + group, value_ + group, min(entries, keys), min(entries, values)
