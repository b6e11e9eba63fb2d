"""What the cache of a layer holds as an answer grows, and how many bytes that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.roofline.kind import CacheLayer
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.state import Cached
from lvlm_atlas.roofline.transform import CacheBits, Names

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


def held(layout: Layout, cached: Cached, layer: CacheLayer, grown: float) -> Held:
    """The cache once `grown` tokens have followed the first prompt.

    A sliding window keeps the newest: text follows the vision tokens, so those go first.
    """
    window = layer.place.window
    if layer.place.cross:
        entries = vision = layer.vision
    else:
        newer = layer.text + grown
        most = math.inf if window is None else window
        entries = min(most, layer.vision + newer)
        vision = layer.vision if window is None else entries - min(most, newer)
    return Held(entries, vision, cache_byte(layout, cached, entries))


def mean_held(layout: Layout, cached: Cached, layer: CacheLayer, *, text: int, output: int, turns: int) -> Held:
    """The cache on average over all decoding steps, each of which sees its own entry too.

    Each of so many turns is a question of `text` tokens and an answer of `output`.

    Exact, but for the bytes of a quantised cache whose exact part depends on the length: those are the mean of
    `SAMPLES` steps, spread evenly and at no fixed distance so that they fall in step with no period.
    """
    window = layer.place.window
    if layer.place.cross:
        return held(layout, cached, layer, 0)
    steps, question = output - 1, text + output
    entries = vision = 0.0
    for turn in range(turns):
        newer = layer.text + turn * question
        all_ = _rising(layer.vision + newer, steps, window)
        entries += all_
        vision += layer.vision * steps if window is None else all_ - _rising(newer, steps, window)
    total = turns * steps
    if cached.bits is None or not cached.bits[0].uneven:
        byte = cache_byte(layout, cached, entries / total)
    else:
        count = min(total, SAMPLES)
        places = range(total) if total <= SAMPLES else [int(total * ((i + 0.5) * _GOLDEN % 1)) for i in range(count)]
        grown = (place // steps * question + place % steps + 1 for place in places)
        byte = sum(held(layout, cached, layer, each).byte for each in grown) / count
    return Held(entries / total, vision / total, byte)


def cache_byte(layout: Layout, cached: Cached, entries: float) -> float:
    """Bytes of one layer's cache with so many entries a head, for one request."""
    llm = layout.model.llm
    bits = channel_bits(cached.bits, entries, layout.kv_byte)
    if llm.latent:  # one latent stands for key and value
        return bits / 2 / 8 * (llm.latent.kv_lora_rank + llm.latent.rope_dim)
    return bits / 8 * llm.kv_heads * llm.head_dim


def _rising(start: float, steps: int, most: float | None) -> float:
    """Sum of min(most, start + i) over i = 1, …, steps."""
    rising = steps if most is None else min(steps, max(0, math.floor(most - start)))
    return rising * start + rising * (rising + 1) / 2 + (steps - rising) * (most or 0)


def channel_bits(quantised: tuple[CacheBits, Names] | None, entries: float, element_byte: float) -> float:
    """Bits of one channel of keys and values with so many entries.

    Args:
        quantised: how they are quantised, and what the names in that stand for; None: not at all.
        entries: entries a head.
        element_byte: bytes of a number that is not quantised.
    """
    full = 8 * element_byte
    key_bit, value_bit, exact_keys, exact_values = _bits(quantised, entries, full)
    return (entries - exact_keys) * key_bit + (entries - exact_values) * value_bit + (exact_keys + exact_values) * full


def _bits(quantised: tuple[CacheBits, Names] | None, entries: float, full: float) -> tuple[float, float, float, float]:
    """Bits of a quantised key and value with their share of the group, and how many of each stay exact."""
    if quantised is None:
        return full, full, 0.0, 0.0
    bits, names = quantised
    amounts = (
        bits.key, bits.value, bits.group_overhead_bit, bits.group_size, bits.full_precision_keys,
        bits.full_precision_values,
    )  # fmt: skip
    at: Mapping[str, float] = {**names, "N": entries} if any(map(callable, amounts)) else names
    key, value_, overhead, size, keys, values = [each(at) if callable(each) else each for each in amounts]
    group = overhead / size
    return key + group, value_ + group, min(entries, keys), min(entries, values)
