"""Numbers in few bits: groups that share a scale, codes packed into bytes.

n numbers along the grouped axis, g numbers of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.places import take

FLOAT8_MOST = 448.0
"""The greatest finite number of E4M3."""
_TRITS = 5
"""Numbers of three levels in a byte: 3⁵ = 243 codes."""


@dataclass(frozen=True)
class Codes:
    """Quantised numbers, groups along the last axis."""

    packed: Tensor
    """(…, bytes) uint8; the first code in the lowest bits, or in the lowest digit."""
    scale: Tensor
    """(…, n / g), in the type of the numbers."""
    zero: Tensor | None = None
    """(…, n / g), in the type of the numbers; None: the levels lie around 0."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is stored."""
        return (self.packed, self.scale) if self.zero is None else (self.packed, self.scale, self.zero)

    def first(self, count: int, group_size: int) -> Codes:
        """The codes of the first numbers along the grouped axis, whole groups."""
        packed = count * self.packed.shape[-1] // (self.scale.shape[-1] * group_size)
        groups = count // group_size
        return Codes(*(x[..., :end].clone() for x, end in zip(self.tensors, (packed, groups, groups), strict=False)))

    def rows(self, index: Tensor) -> Codes:
        """The codes of these rows (…, K) of the axis before the grouped one."""
        return Codes(*(take(x, index) for x in self.tensors))

    def then(self, other: Codes, dim: int) -> Codes:
        """These codes and others after them, along `dim`."""
        return Codes(*(torch.cat(pair, dim) for pair in zip(self.tensors, other.tensors, strict=True)))


@dataclass(frozen=True)
class Beside:
    """Codes of several parts of the channels, groups of tokens along the last axis of each."""

    parts: tuple[Codes, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is stored."""
        return tuple(tensor for part in self.parts for tensor in part.tensors)

    def first(self, count: int, group_size: int) -> Beside:
        """See `Codes`."""
        return Beside(tuple(part.first(count, group_size) for part in self.parts))

    def rows(self, index: Tensor) -> Beside:
        """See `Codes`."""
        return Beside(tuple(part.rows(index) for part in self.parts))

    def then(self, other: Beside, dim: int) -> Beside:
        """See `Codes`."""
        return Beside(tuple(one.then(more, dim) for one, more in zip(self.parts, other.parts, strict=True)))


def quantise(x: Tensor, group_size: int, bits: int, clip: float = 1.0) -> Codes:
    """Round each group of g numbers to 2^b levels from c · its least to c · its greatest; arithmetic in the type of x.

    z = c · min, s = c · (max − min) / (2^b − 1), code = round(clamp((x − z) / s, 0, 2^b − 1)), halves to even. No
    number is off by more than max(s / 2, x − c · max, c · min − x), but for rounding in the type of x: half a step, or
    what it lies outside of the clipped range.

    Args:
        x: numbers (…, n); g divides n.
        group_size: g, consecutive numbers that share scale and zero point.
        bits: b, one of 1, 2, 4 and 8; a row's codes fill whole bytes.
        clip: c, the part of the range that levels are spread over.
    """
    grouped = _grouped(x, group_size)
    zero, scale = levels(grouped, -1, bits, clip)
    level = ((grouped - zero) / scale).nan_to_num(0, torch.inf).clamp(0, 2**bits - 1).round()
    return Codes(pack(level.flatten(-2).to(torch.uint8), bits), scale.squeeze(-1), zero.squeeze(-1))


def levels(x: Tensor, dim: int, bits: int, clip: float = 1.0) -> tuple[Tensor, Tensor]:
    """Zero point and step of 2^b levels from c · the least to c · the greatest number along an axis, which is kept."""
    zero = x.amin(dim, keepdim=True) * clip
    return zero, (x.amax(dim, keepdim=True) * clip - zero) / (2**bits - 1)


def dequantise(codes: Codes, group_size: int, bits: int) -> Tensor:
    """Numbers (…, n): code · s + z, in the type of the scales."""
    level = unpack(codes.packed, bits).to(codes.scale.dtype).reshape(*codes.scale.shape, group_size)
    number = level * codes.scale[..., None]
    return (number if codes.zero is None else number + codes.zero[..., None]).flatten(-2)


def quantise_sign(x: Tensor, group_size: int) -> Codes:
    """One bit a number: ±α with α = mean |x| of the group; 0 counts as positive (VidKV's 1-bit keys).

    No number is off by more than max(α, max |x| − α).

    Args:
        x: numbers (…, n); g divides n, 8 divides n.
        group_size: g.
    """
    grouped = _grouped(x, group_size)
    return Codes(pack((x >= 0).to(torch.uint8), 1), grouped.abs().mean(-1))


def dequantise_sign(codes: Codes, group_size: int) -> Tensor:
    """Numbers (…, n): ±α."""
    sign = unpack(codes.packed, 1).to(codes.scale.dtype).reshape(*codes.scale.shape, group_size) * 2 - 1
    return (sign * codes.scale[..., None]).flatten(-2)


def quantise_ternary(x: Tensor, group_size: int) -> Codes:
    """Three levels, −α, 0 and α, with α = mean |x| of the group; 0 up to the threshold α / 2 (VidKV's 1.58-bit values).

    log2 3 = 1.58 bits are what a number tells; five of them take a byte, so a group takes ⌈g / 5⌉ bytes. (VidKV's
    released code gives each of them two bits.) No number is off by more than max(α / 2, max |x| − α).

    Args:
        x: numbers (…, n); g divides n.
        group_size: g.
    """
    grouped = _grouped(x, group_size)
    scale = grouped.abs().mean(-1)
    level = (grouped.abs() > scale[..., None] / 2) * grouped.sign() + 1
    return Codes(pack_trits(level.to(torch.uint8)).flatten(-2), scale)


def dequantise_ternary(codes: Codes, group_size: int) -> Tensor:
    """Numbers (…, n): −α, 0 or α."""
    level = unpack_trits(torch.unflatten(codes.packed, -1, (codes.scale.shape[-1], -1)), group_size)
    return ((level.to(codes.scale.dtype) - 1) * codes.scale[..., None]).flatten(-2)


def quantise_float8(x: Tensor, group_size: int) -> Codes:
    """E4M3: four bits of exponent, three of mantissa, each group scaled so that its greatest number is the format's.

    With s = max |x| / 448, no number is off by more than max(|x| / 16, s / 1024), but for rounding of s in the type
    of x.

    Args:
        x: numbers (…, n); g divides n.
        group_size: g.
    """
    grouped = _grouped(x, group_size)
    scale = grouped.abs().amax(-1) / FLOAT8_MOST
    return Codes(to_float8(grouped, scale[..., None]).flatten(-2), scale)


def to_float8(x: Tensor, scale: Tensor) -> Tensor:
    """The bytes of x / s in E4M3, nearest and halves to even; what exceeds ±448 becomes ±448, and 0 / 0 is 0.

    No number within ±448 s is off by more than max(|x| / 16, s / 1024).
    """
    scaled = (x.float() / scale.float()).nan_to_num(0).clamp(-FLOAT8_MOST, FLOAT8_MOST)
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8)


def from_float8(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that bytes of E4M3 stand for, times s."""
    number: Tensor = packed.view(torch.float8_e4m3fn).float() * scale.float()
    return number.to(dtype)


def dequantise_float8(codes: Codes, group_size: int) -> Tensor:
    """Numbers (…, n), in the type of the scales."""
    packed = torch.unflatten(codes.packed, -1, (-1, group_size))
    return from_float8(packed, codes.scale[..., None], codes.scale.dtype).flatten(-2)


@dataclass(frozen=True)
class Format:
    """A way to hold numbers in few bits, given the size of a group."""

    encode: Callable[[Tensor, int], Any]
    """Numbers (…, n) and g to codes, one kind of them."""
    decode: Callable[[Any, int], Tensor]
    """Codes and g to numbers (…, n)."""


def uniform(bits: int, clip: float = 1.0) -> Format:
    """2^b levels from a group's least number to its greatest, or over a part of that; see `quantise`."""
    return Format(partial(quantise, bits=bits, clip=clip), partial(dequantise, bits=bits))


def rotated(form: Format, rotation_dd: Tensor) -> Format:
    """The format behind an orthogonal matrix that is multiplied from the right, and undone when numbers are read.

    Lengths stay, so that the squared error of a row is what the format leaves of the rotated one.
    """

    def encode(x: Tensor, group_size: int) -> Any:
        return form.encode(x @ rotation_dd, group_size)

    def decode(codes: Any, group_size: int) -> Tensor:
        number: Tensor = form.decode(codes, group_size) @ rotation_dd.mT
        return number

    return Format(encode, decode)


SIGN = Format(quantise_sign, dequantise_sign)
TERNARY = Format(quantise_ternary, dequantise_ternary)
FLOAT8 = Format(quantise_float8, dequantise_float8)


def pack(code: Tensor, bits: int) -> Tensor:
    """Codes (…, n) of `bits` bits into bytes (…, n · bits / 8), whole ones, the first code in the lowest bits."""
    if 8 % bits:  # codes cross the borders of bytes
        return pack(_spread(code, bits), 1)
    shift = torch.arange(0, 8, bits, device=code.device, dtype=torch.uint8)
    return (code.reshape(*code.shape[:-1], -1, 8 // bits) << shift).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`."""
    if 8 % bits:
        shift = torch.arange(bits, device=packed.device, dtype=torch.uint8)
        joined: Tensor = torch.unflatten(unpack(packed, 1), -1, (-1, bits)) << shift
        return joined.sum(-1, dtype=torch.uint8)
    return _spread(packed, 8, bits)


def _spread(code: Tensor, width: int, bits: int = 1) -> Tensor:
    """Codes (…, n) of `width` bits as width / `bits` smaller ones each, the lowest bits first."""
    shift = torch.arange(0, width, bits, device=code.device, dtype=torch.uint8)
    spread: Tensor = (code[..., None] >> shift) & (2**bits - 1)
    return spread.flatten(-2)


def pack_trits(trit: Tensor) -> Tensor:
    """Numbers 0, 1 and 2 (…, n) into bytes (…, ⌈n / 5⌉), the first one in the lowest digit to base 3."""
    filled = torch.nn.functional.pad(trit, (0, -trit.shape[-1] % _TRITS))
    digit: Tensor = torch.unflatten(filled, -1, (-1, _TRITS)) * _digits(trit.device)
    return digit.sum(-1, dtype=torch.uint8)


def unpack_trits(packed: Tensor, length: int) -> Tensor:
    """The inverse of `pack_trits`: the first `length` numbers."""
    trit: Tensor = packed[..., None] // _digits(packed.device) % 3
    return trit.flatten(-2)[..., :length]


def _digits(device: torch.device) -> Tensor:
    power: Tensor = 3 ** torch.arange(_TRITS, device=device, dtype=torch.uint8)
    return power


def _grouped(x: Tensor, group_size: int) -> Tensor:
    return x.reshape(*x.shape[:-1], -1, group_size)
