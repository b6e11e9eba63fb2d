"""FP8 KV cache: keys and values in E4M3, with scale 1, or one scale a layer or a key-value head.

Source: vllm2026, docs/features/quantization/quantized_kvcache.md, and sglang2026, docs/advanced_features/
quantized_kv_cache.md; the name is that of the engines' option. Symbols: scale s.

A number x is held as E4M3(x / s), nearest and halves to even, what exceeds ±448 becoming ±448, and read as its code
times s. Within ±448 s no number is off by more than max(|x| / 16, s / 1024): half a step of the three bits of mantissa,
or half the least number of the format. Scales belong to the model, one for the keys and one for the values of a layer
or of each head, so that a cached number takes a byte and nothing more.

Departs:
1. Engines read calibrated scales from the checkpoint, or keep 1. Here the first prompt of a run stands for the data of
   calibration, and its greatest number becomes 448; later tokens are clamped to that range.
2. Where heads hold different numbers of entries, each has a scale of its own, even if one a layer is asked for.
3. Attention runs on what is read back. With FlashAttention 3, vLLM makes queries FP8 too and multiplies in that format.

B batch · G key-value heads · S entries · d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.lvlm.contexts import CacheBits
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.quantisation import FLOAT8_MOST, Codes, Format, from_float8, to_float8

SCALES = ("one", "layer", "head")
OFF = 16
"""Bits that mean: no quantisation."""


def static_scale(x_BGSd: Tensor, visible_BGS: Tensor, scales: str) -> Tensor:
    """The scale s, float32, of keys or values: (1, 1, 1, 1), or (1, G, 1, 1) for one a head.

    Args:
        x_BGSd: numbers to fit it to, the greatest of which becomes 448.
        visible_BGS: False where an entry is padding, which does not count.
        scales: `one` is 1, `layer` one for all heads, `head` one for each.
    """
    magnitude_BGSd = x_BGSd.abs().float().masked_fill(~visible_BGS[..., None], 0)
    if scales == "one" or not x_BGSd.shape[2]:
        return magnitude_BGSd.new_ones(1, 1, 1, 1)
    axes = (0, 1, 2, 3) if scales == "layer" else (0, 2, 3)
    most = magnitude_BGSd.amax(axes, keepdim=True)
    return (most / FLOAT8_MOST).where(most > 0, 1)


def e4m3(scale: Tensor, dtype: torch.dtype) -> Format:
    """Bytes of E4M3 with a scale that is the model's and no part of the cache."""
    return Format(partial(_encode, scale=scale), partial(_decode, scale=scale, dtype=dtype))


def _encode(x_BGSd: Tensor, _group_size: int, *, scale: Tensor) -> Codes:
    return Codes(to_float8(x_BGSd, scale), x_BGSd.new_empty(*x_BGSd.shape[:-1], 0))


def _decode(codes: Codes, _group_size: int, *, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return from_float8(codes.packed, scale, dtype)


@dataclass(frozen=True)
class Fp8KvCache(Technique):
    """An FP8 KV cache at `cache-bits`.

    Raises:
        ValueError: a parameter out of its range.
    """

    bits: int = 8
    """8 for E4M3; 16 turns it off."""
    scales: str = "one"
    """What shares a scale: `one` (it is 1), `layer` or `head`."""

    acts_at: ClassVar = ("cache-bits",)
    needs: ClassVar = ("low-bit-kernel",)

    def __post_init__(self) -> None:
        if self.bits not in (8, OFF):
            raise ValueError(f"bits must be 8 or {OFF}, got {self.bits}")
        if self.scales not in SCALES:
            raise ValueError(f"scales must be one of {', '.join(SCALES)}, got {self.scales!r}")

    def new_store(self, at: CacheBits) -> Store:
        """An empty store, with scales for this layer."""
        if self.bits == OFF:
            return PlainStore()
        visible_BGS = at.entries.held.visible_BGS
        key, value = (
            Half(e4m3(static_scale(x_BGSd, visible_BGS, self.scales), x_BGSd.dtype), 1, across_tokens=False)
            for x_BGSd in (at.entries.key_BGSd, at.entries.value_BGSd)
        )
        return QuantisedStore(key, value)
