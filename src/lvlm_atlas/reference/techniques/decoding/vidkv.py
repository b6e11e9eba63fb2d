"""VidKV: keys at 2 bits in channels of wide range and 1 bit of their spectrum in the others, values at three levels.

Paper: tao2025vidkv (abstract); formulas as in the official code (`vidkv_quant.py`, `cache_utils.py`). Symbols: b_K →
`key_bits`; b_V → `value_bits`; g → `group_size`; R → `residual_length`.

The ⌊(b_K − 1) d⌋ channels of widest range have 2 bits (`ops.quantisation.quantise`). The other d' channels go through a
Fourier transform; of its numbers the sign is held, times the mean magnitude α of a group. Real input has a spectrum
that mirrors itself, so that d' numbers are all of it: one bit a channel. By Parseval, the squared error of these
channels in a token is 1 / d' of that of the whole spectrum, whose numbers are off by no more than max(α, |X| − α).
Values are −α, 0 or α (`quantise_ternary`). All groups are g tokens of one channel.

Departs:
1. The official code reads one-bit numbers back as 0 and α and ternary ones as −1, 0 and 1, without their scale; here
   they are ±α and −α, 0, α, as quantised.
2. It stores both halves of the spectrum, two bits a channel, and ternary numbers in two bits; here five of them take a
   byte.
3. It quantises whole groups of a prompt at once, then waits until R exact tokens have gathered, and quantises the whole
   cache anew with them. Here R tokens are quantised as they are complete, from the first on, and stay as they are.
4. Channels are chosen by the entries of the first prompt, once for all heads, and kept; the official code chooses anew
   each time, and takes 32 channels where the share makes none.
5. The third part of the paper, which keeps the values of vision tokens close to the text at 2 bits, is left out; in the
   official code it is an option for one model.

B batch · G key-value heads · N entries · d head dimension · d' (e) channels of one bit · f frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.lvlm.contexts import CacheBits
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.quantisation import (
    SIGN,
    TERNARY,
    Beside,
    Format,
    quantise_ternary,  # noqa: F401 - a step of the entry
    uniform,
)
from lvlm_atlas.reference.refusal import Refusal

VALUE_BITS = (1.58, 2.0)


def by_range(key_BGNd: Tensor, visible_BGN: Tensor, wide: int) -> Tensor:
    """Channels (d,): first those of narrow range, then the `wide` ones of the widest, each part ascending.

    A range is that over all entries and heads.

    Args:
        key_BGNd: keys.
        visible_BGN: False where an entry is padding, which does not count.
        wide: how many.
    """
    width = key_BGNd.shape[3]
    if not key_BGNd.shape[2]:
        return torch.arange(width, device=key_BGNd.device)
    hidden = ~visible_BGN[..., None]
    most_d = key_BGNd.masked_fill(hidden, -torch.inf).amax((0, 1, 2))
    least_d = key_BGNd.masked_fill(hidden, torch.inf).amin((0, 1, 2))
    parts = (most_d - least_d).argsort(stable=True).split([width - wide, wide])
    return torch.cat([part.sort().values for part in parts])


def spectrum(x: Tensor) -> Tensor:
    """The Fourier transform along the axis before the last, (…, d', n), as d' real numbers, in the type of x.

    Real parts of frequencies 0 … ⌊d' / 2⌋, then imaginary ones of 1 … ⌈d' / 2⌉ − 1; the others are 0 or mirrored.
    """
    wave = torch.fft.rfft(x.float(), dim=-2)
    imaginary = wave.imag.narrow(-2, 1, (x.shape[-2] - 1) // 2) if x.shape[-2] else wave.imag
    number: Tensor = torch.cat([wave.real, imaginary], dim=-2)
    return number.to(x.dtype)


def from_spectrum(number: Tensor) -> Tensor:
    """The inverse of `spectrum`."""
    channels = number.shape[-2]
    real, imaginary = number.float().split([channels // 2 + 1, (channels - 1) // 2], dim=-2)
    filled = torch.cat([torch.zeros_like(real[..., :1, :]), imaginary], dim=-2)
    filled = torch.nn.functional.pad(filled, (0, 0, 0, real.shape[-2] - filled.shape[-2]))
    x: Tensor = torch.fft.irfft(torch.complex(real, filled), n=channels, dim=-2)
    return x.to(number.dtype)


def mixed_keys(order_d: Tensor, wide: int) -> Format:
    """Two bits for the last `wide` channels of an order, one bit of the spectrum for the others.

    Args:
        order_d: channels, those of two bits last; the transform takes the others in this order.
        wide: how many have two bits.
    """
    narrow, two_bits = len(order_d) - wide, uniform(2)
    back_d = order_d.argsort()

    def encode(x: Tensor, group_size: int) -> Beside:
        easy, hard = x[..., order_d, :].split([narrow, wide], dim=-2)
        coded = [SIGN.encode(spectrum(easy), group_size)] if narrow else []
        return Beside((*coded, *([two_bits.encode(hard, group_size)] if wide else [])))

    def decode(codes: Beside, group_size: int) -> Tensor:
        parts = list(codes.parts)
        read = [from_spectrum(SIGN.decode(parts.pop(0), group_size))] if narrow else []
        read += [two_bits.decode(part, group_size) for part in parts]
        return torch.cat(read, dim=-2)[..., back_d, :]

    return Format(encode, decode)


@dataclass(frozen=True)
class VidKV(Technique):
    """VidKV at `cache-bits`.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: sizes that do not fit each other.
    """

    key_bits: float = 1.5
    """Mean bits b_K of a key, from 1 to 2."""
    value_bits: float = 1.58
    """Bits b_V of a value: 1.58 for three levels, or 2."""
    group_size: int = 32
    """Tokens g of a channel that share a scale; a multiple of 8."""
    residual_length: int = 128
    """Recent tokens R at which exact ones are quantised; a multiple of g."""

    acts_at: ClassVar = ("cache-bits",)
    needs: ClassVar = ("low-bit-kernel",)

    def __post_init__(self) -> None:
        if not 1 <= self.key_bits <= 2:
            raise ValueError(f"key_bits must lie in [1, 2], got {self.key_bits}")
        if self.value_bits not in VALUE_BITS:
            raise ValueError(f"value_bits must be 1.58 or 2, got {self.value_bits}")
        self.expect_at_least(1, "group_size", "residual_length")
        if self.group_size % 8:
            raise Refusal(f"the bits of a group must fill whole bytes, so group_size 8 or 16, got {self.group_size}")
        if self.residual_length % self.group_size:
            raise Refusal(
                f"residual_length must be a multiple of group_size {self.group_size}, got {self.residual_length}"
            )

    def new_store(self, at: CacheBits) -> Store:
        """An empty store, whose channels of two bits are those that the layer's entries call for."""
        wide = int(at.entries.key_BGSd.shape[3] * (self.key_bits - 1))
        keys = mixed_keys(by_range(at.entries.key_BGSd, at.entries.held.visible_BGS, wide), wide)
        values = TERNARY if self.value_bits < VALUE_BITS[1] else uniform(2)
        return QuantisedStore(
            Half(keys, self.group_size, across_tokens=True),
            Half(values, self.group_size, across_tokens=True),
            lambda length: (length - length % self.residual_length,) * 2,
        )
