"""Numbers in few bits: groups that share a scale and a zero point, codes packed into bytes.

n numbers along the grouped axis, g numbers of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.places import take


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
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that is stored."""
        return self.packed, self.scale, self.zero

    def first(self, count: int, group_size: int) -> Codes:
        """The codes of the first numbers along the grouped axis, whole groups."""
        packed = count * self.packed.shape[-1] // (self.scale.shape[-1] * group_size)
        groups = count // group_size
        return Codes(
            self.packed[..., :packed].clone(), self.scale[..., :groups].clone(), self.zero[..., :groups].clone()
        )

    def rows(self, index: Tensor) -> Codes:
        """The codes of these rows (…, K) of the axis before the grouped one."""
        return Codes(*(take(x, index) for x in self.tensors))

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
