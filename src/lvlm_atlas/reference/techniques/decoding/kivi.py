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

B batch · G key-value heads · S entries · d head dimension · n numbers along the grouped axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.lvlm.points import CacheBits, Technique
from lvlm_atlas.reference.refusal import Refusal

OFF = 16
"""Bits that mean: no quantisation."""


@dataclass(frozen=True)
class Codes:
    """Quantised numbers, groups along the last axis."""

    packed: Tensor
    """(…, n · bits / 8) uint8; the first code in the lowest bits."""
    scale: Tensor
    """(…, n / g), in the type of the numbers."""
    zero: Tensor
    """(…, n / g), in the type of the numbers."""

    @property
    def byte(self) -> int:
        """Bytes that the three tensors take."""
        return self.packed.nbytes + self.scale.nbytes + self.zero.nbytes

    def then(self, other: Codes, dim: int) -> Codes:
        """These codes and others after them, along `dim`."""
        return Codes(
            torch.cat([self.packed, other.packed], dim),
            torch.cat([self.scale, other.scale], dim),
            torch.cat([self.zero, other.zero], dim),
        )


def quantise(x: Tensor, group_size: int, bits: int) -> Codes:
    """Round each group of g numbers to 2^b levels from its least to its greatest; arithmetic in the type of x.

    z = min, s = (max − min) / (2^b − 1), code = round(clamp((x − z) / s, 0, 2^b − 1)), halves to even.

    Args:
        x: numbers (…, n); g divides n.
        group_size: g, consecutive numbers that share scale and zero point.
        bits: b, one of 2, 4 and 8; a row's codes fill whole bytes.
    """
    grouped = x.reshape(*x.shape[:-1], -1, group_size)
    zero = grouped.amin(-1, keepdim=True)
    scale = (grouped.amax(-1, keepdim=True) - zero) / (2**bits - 1)
    level = ((grouped - zero) / scale).nan_to_num(0, torch.inf).clamp(0, 2**bits - 1).round()
    return Codes(pack(level.flatten(-2).to(torch.uint8), bits), scale.squeeze(-1), zero.squeeze(-1))


def dequantise(codes: Codes, group_size: int, bits: int) -> Tensor:
    """Numbers (…, n): code · s + z, in the type of the scales."""
    level = unpack(codes.packed, bits).to(codes.scale.dtype).reshape(*codes.scale.shape, group_size)
    return (level * codes.scale[..., None] + codes.zero[..., None]).flatten(-2)


def pack(code: Tensor, bits: int) -> Tensor:
    """Codes (…, n) of `bits` bits into bytes (…, n · bits / 8), the first code in the lowest bits."""
    shift = torch.arange(0, 8, bits, device=code.device, dtype=torch.uint8)
    return (code.reshape(*code.shape[:-1], -1, 8 // bits) << shift).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`."""
    shift = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    code: Tensor = (packed[..., None] >> shift) & (2**bits - 1)
    return code.flatten(-2)


def quantised_lengths(length: int, residual_length: int) -> tuple[int, int]:
    """How many of `length` entries have quantised keys (whole residuals) and values (all but the last R)."""
    return length - length % residual_length, max(0, length - residual_length)


class Half:
    """The keys or the values of a layer: codes of the oldest, then the recent ones as they came."""

    def __init__(self, bits: int, group_size: int, *, across_tokens: bool) -> None:
        self.bits, self.group_size = bits, group_size
        self.across_tokens = across_tokens
        """Whether a group is g tokens of one channel (keys) or g channels of one token (values)."""
        self.codes: Codes | None = None
        self.coded = 0
        self.recent_BGNd = torch.empty(0)

    def append(self, x_BGMd: Tensor) -> None:
        """Add entries at the end."""
        self.recent_BGNd = torch.cat([self.recent_BGNd, x_BGMd], dim=2) if self.recent_BGNd.dim() == 4 else x_BGMd

    def read(self) -> Tensor:
        """All entries (B, G, S, d)."""
        if self.codes is None:
            return self.recent_BGNd
        old = dequantise(self.codes, self.group_size, self.bits)
        return torch.cat([old.mT if self.across_tokens else old, self.recent_BGNd], dim=2)

    def retain(self, index_K: Tensor, count: int) -> None:
        """Of the last `count` entries keep those at these places."""
        first = self.recent_BGNd.shape[2] - count
        head, tail = self.recent_BGNd[:, :, :first], self.recent_BGNd[:, :, first:]
        self.recent_BGNd = torch.cat([head, tail[:, :, index_K]], dim=2)

    def quantise(self, length: int) -> None:
        """Make codes of the oldest entries until `length` of them are."""
        new = length - self.coded
        if new == 0:
            return
        old_BGNd = self.recent_BGNd[:, :, :new]
        codes = quantise(old_BGNd.mT if self.across_tokens else old_BGNd, self.group_size, self.bits)
        self.codes = self.codes.then(codes, dim=-1 if self.across_tokens else 2) if self.codes else codes
        self.coded = length
        self.recent_BGNd = self.recent_BGNd[:, :, new:].clone()  # a view would hold the tensor that it was cut from

    @property
    def byte(self) -> int:
        """Bytes that the stored tensors take."""
        return self.recent_BGNd.nbytes + (self.codes.byte if self.codes else 0)


class KiviStore:
    """One layer's cache; see `lvlm_atlas.reference.caches.store.Store`."""

    def __init__(self, bits: int, group_size: int, residual_length: int) -> None:
        self.residual_length = residual_length
        self.key = Half(bits, group_size, across_tokens=True)
        self.value = Half(bits, group_size, across_tokens=False)
        self._length = self._settled = 0

    def append(self, key_BGMd: Tensor, value_BGMd: Tensor) -> None:
        """See `Store`.

        Raises:
            Refusal: the group size does not divide the head dimension.
        """
        if key_BGMd.shape[-1] % self.key.group_size:
            raise Refusal(
                f"group_size must divide the head dimension, which is {key_BGMd.shape[-1]} here, "
                f"got {self.key.group_size}"
            )
        self.key.append(key_BGMd)
        self.value.append(value_BGMd)
        self._length += key_BGMd.shape[2]

    def read(self) -> tuple[Tensor, Tensor]:
        """See `Store`."""
        return self.key.read(), self.value.read()

    def retain(self, index_K: Tensor) -> None:
        """See `Store`; no unsettled entry is a code, so this is exact."""
        for half in (self.key, self.value):
            half.retain(index_K, self._length - self._settled)
        self._length = self._settled + len(index_K)

    def settle(self) -> None:
        """See `Store`; quantises what has become old enough."""
        keys, values = quantised_lengths(self._length, self.residual_length)
        self.key.quantise(keys)
        self.value.quantise(values)
        self._settled = self._length

    @property
    def length(self) -> int:
        """See `Store`."""
        return self._length

    @property
    def byte(self) -> int:
        """See `Store`."""
        return self.key.byte + self.value.byte


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
        for name in ("group_size", "residual_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
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
        return KiviStore(self.bits, self.group_size, self.residual_length)
