"""What the cache of a layer holds as an answer grows, and how many bytes that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lvlm_atlas.roofline.kind import CacheLayer
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.model import Llm
from lvlm_atlas.roofline.state import Cached, Limits
from lvlm_atlas.roofline.transform import CacheBits

SAMPLES = 48
"""Steps at which a quantised cache is looked at; its bytes rise and fall with the length."""
_NO_LIMITS = Limits()
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Held:
    """The cache of one layer, for one request."""

    entries: float
    """Entries a head."""
    vision: float
    """The vision entries among them."""
    byte: float
    """Bytes of all of them, or of a state of constant size."""
    vision_byte: float
    """Bytes of the vision entries."""


def held(layout: Layout, cached: Cached, layer: CacheLayer, grown: float) -> Held:
    """The cache once `grown` tokens have followed the first prompt."""
    return _held(layout, cached, layer, *growing(layer, grown))


def growing(layer: CacheLayer, grown: float) -> tuple[float, float]:
    """Entries of a layer once `grown` tokens have followed the first prompt, and the vision entries among them.

    A sliding window keeps the newest: text follows the vision tokens, so those go first. Where the cache is bounded
    while it grows, the same is taken to be dropped.
    """
    if layer.state or layer.place.linear:
        return 0.0, 0.0
    limits = layer.limits if grown else _NO_LIMITS
    vision = min(layer.vision, limits.vision)
    if layer.place.cross:
        return vision, vision
    newer, most = min(layer.text + grown, limits.text), _most(layer, limits)
    entries = min(most, vision + newer)
    return entries, vision if most == math.inf else entries - min(most, newer)


def _most(layer: CacheLayer, limits: Limits) -> float:
    return limits.all if layer.place.window is None else min(layer.place.window, limits.all)


def mean_held(layout: Layout, cached: Cached, layer: CacheLayer, *, text: int, output: int, turns: int) -> Held:
    """The cache on average over all decoding steps, each of which sees its own entry too.

    Each of so many turns is a question of `text` tokens and an answer of `output`.

    Exact, but for the bytes of a quantised cache whose exact part depends on the length: those are the mean of
    `SAMPLES` steps, spread evenly and at no fixed distance so that they fall in step with no period.
    """
    if layer.place.cross or layer.state or layer.place.linear:
        return held(layout, cached, layer, 1)
    limits, most = layer.limits, _most(layer, layer.limits)
    before = min(layer.vision, limits.vision)
    steps, question = output - 1, text + output
    entries = vision = 0.0
    for turn in range(turns):
        newer = layer.text + turn * question
        all_ = _rising(before + newer, steps, min(most, before + limits.text))
        entries += all_
        vision += before * steps if most == math.inf else all_ - _rising(newer, steps, min(most, limits.text))
    total = turns * steps
    if not any(cached.bits[index].uneven for index in layer.stored if index >= 0):
        return _held(layout, cached, layer, entries / total, vision / total)
    count = min(total, SAMPLES)
    places = range(total) if total <= SAMPLES else [int(total * ((i + 0.5) * _GOLDEN % 1)) for i in range(count)]
    grown = (place // steps * question + place % steps + 1 for place in places)
    sampled = [_byte(layout, cached, layer, *growing(layer, each)) for each in grown]
    byte, entries, vision = sum(all_ for all_, _ in sampled) / count, entries / total, vision / total
    if layer.stored[0] == layer.stored[1]:
        return Held(entries, vision, byte, _part(byte, vision, entries))
    return Held(entries, vision, byte, sum(of_vision for _, of_vision in sampled) / count)


def _held(layout: Layout, cached: Cached, layer: CacheLayer, entries: float, vision: float) -> Held:
    """The cache of a layer with so many entries, or its state."""
    if layer.place.linear:
        return Held(0.0, 0.0, linear_state_byte(layout), 0.0)
    if layer.state:
        return Held(0.0, 0.0, layer.state * layout.model.llm.kv_heads * layout.kv_byte, 0.0)
    return Held(entries, vision, *_byte(layout, cached, layer, entries, vision))


def linear_state_byte(layout: Layout) -> float:
    """Bytes of the state of a layer of linear attention, and of the inputs that its convolution still needs."""
    linear = layout.model.llm.linear
    if linear is None:
        return 0.0
    return linear.elements * linear.state_byte + linear.channels * (linear.conv - 1) * layout.activation_byte


def _byte(layout: Layout, cached: Cached, layer: CacheLayer, entries: float, vision: float) -> tuple[float, float]:
    """Bytes of so many entries, and of the vision entries among them."""
    llm = layout.model.llm
    bits, vision_bits = stored_bits(cached, layer, entries, vision, layout.kv_byte)
    byte = _channels_byte(llm, bits, layer.place.wide)
    alike = layer.stored[0] == layer.stored[1]
    return byte, _part(byte, vision, entries) if alike else _channels_byte(llm, vision_bits, layer.place.wide)


def _channels_byte(llm: Llm, bits: float, wide: bool) -> float:
    """Bytes of all channels of a layer. One latent stands for key and value of all heads."""
    if llm.latent:
        return bits / 2 / 8 * (llm.latent.kv_lora_rank + llm.latent.rope_dim)
    heads = llm.heads_at(wide)
    return bits / 8 * heads.kv_heads * heads.head_dim


def _part(byte: float, vision: float, entries: float) -> float:
    """Bytes of the vision entries, where all are stored alike."""
    return byte * vision / entries if entries else 0.0


def _rising(start: float, steps: int, most: float) -> float:
    """Sum of min(most, start + i) over i = 1, …, steps."""
    if most == math.inf:
        return steps * start + steps * (steps + 1) / 2
    rising = min(steps, max(0, math.floor(most - start)))
    return rising * start + rising * (rising + 1) / 2 + (steps - rising) * most


def stored_bits(
    cached: Cached, layer: CacheLayer, entries: float, vision: float, element_byte: float
) -> tuple[float, float]:
    """Bits of one channel of keys and values with so many entries, and of the vision entries among them.

    Where vision and text entries are quantised in different ways, `N` stands for the entries of each alone.
    """
    vision_way, text_way = layer.stored
    of_vision = cached.bits[vision_way] if vision_way >= 0 else None
    if vision_way == text_way:
        bits = channel_bits(of_vision, entries, element_byte)
        return bits, _part(bits, vision, entries)
    of_text = cached.bits[text_way] if text_way >= 0 else None
    vision_bits = channel_bits(of_vision, vision, element_byte)
    return vision_bits + channel_bits(of_text, entries - vision, element_byte), vision_bits


def channel_bits(quantised: CacheBits | None, entries: float, element_byte: float) -> float:
    """Bits of one channel of keys and values with so many entries.

    Args:
        quantised: how they are quantised, in numbers and functions of `N`; None: not at all.
        entries: entries a head.
        element_byte: bytes of a number that is not quantised.
    """
    full = 8 * element_byte
    key_bit, value_bit, exact_keys, exact_values = _bits(quantised, entries, full)
    return (entries - exact_keys) * key_bit + (entries - exact_values) * value_bit + (exact_keys + exact_values) * full


def _bits(quantised: CacheBits | None, entries: float, full: float) -> tuple[float, float, float, float]:
    """Bits of a quantised key and value with their share of the group, and how many of each stay exact."""
    if quantised is None:
        return full, full, 0.0, 0.0
    key, value_, overhead, size, keys, values = [
        each({"N": entries}) if callable(each) else each for each in quantised.amounts
    ]
    group = overhead / size
    return key + group, value_ + group, min(entries, keys), min(entries, values)
