"""KIVI: 2-bit keys per channel, 2-bit values per token, the most recent part in full precision.

Paper: liu2024kivi; quantiser and schedule as in the official code (`quant/new_pack.py`, `models/llama_kivi.py`).
Symbols: b → `bits`; g → `group_size`; R → `residual_length`; scale s → `scale`; zero point z → `zero`.

Settled entries are held as KIVI holds them after the same number of tokens, whether they settle one by one or
many at once: the oldest S − (S mod R) keys and the oldest S − R values are codes. Unsettled ones are exact, so
that drafted tokens can be taken back.

Departs:
1. Codes are packed into uint8, where the official code packs them into int32; on a little-endian machine the
   bytes are the same.
2. A group of equal numbers gets codes of 0. The official code divides 0 by 0 there and stores what the cast
   of a NaN gives; its scale is 0, so both read back the same numbers.
3. A drafted token sees the cache as it was settled before the round. One by one, up to γ more of the values (and
   once in a while R keys) would already be codes when it is verified.
4. Where a policy evicts settled entries, the groups of keys that lose one are read back and quantised again with what
   moves up into them, and entries become exact again that are recent among those left: the store holds K entries as
   KIVI holds K tokens. The paper evicts nothing.

B batch · G key-value heads · M new entries · S entries · K retained · d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.lvlm.contexts import CacheBits
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.quantisation import dequantise, pack, quantise, uniform  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.refusal import Refusal

OFF = 16
"""Bits that mean: no quantisation."""


def quantised_lengths(length: int, residual_length: int) -> tuple[int, int]:
    """How many of `length` entries have quantised keys (whole residuals) and values (all but the last R)."""
    return length - length % residual_length, max(0, length - residual_length)


@dataclass(frozen=True)
class Kivi(Technique):
    """KIVI at `cache-bits`.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: sizes that do not fit each other.
    """

    bits: int = 2
    """Bits b of a code; 16 turns quantisation off."""
    group_size: int = 32
    """Numbers g that share a scale and a zero point; divides the head dimension."""
    residual_length: int = 128
    """Recent entries R that stay exact; a multiple of g."""

    acts_at: ClassVar = ("cache-bits",)
    needs: ClassVar = ("low-bit-kernel",)

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8, OFF):
            raise ValueError(f"bits must be 2, 4, 8 or {OFF}, got {self.bits}")
        self.expect_at_least(1, "group_size", "residual_length")
        if self.bits != OFF and self.group_size * self.bits % 8:
            raise Refusal(f"group_size times bits must be whole bytes, got {self.group_size} times {self.bits} bits")
        if self.residual_length % self.group_size:
            raise Refusal(
                f"residual_length must be a multiple of group_size {self.group_size}, got {self.residual_length}"
            )

    def new_store(self, at: CacheBits) -> Store:  # noqa: ARG002
        """An empty store; every layer has the same bits."""
        if self.bits == OFF:
            return PlainStore()
        form = uniform(self.bits)
        return QuantisedStore(
            Half(form, self.group_size, across_tokens=True),
            Half(form, self.group_size, across_tokens=False),
            lambda length: quantised_lengths(length, self.residual_length),
        )
