"""TurboQuant: a random rotation, then one fixed codebook for every coordinate, and a sketch of what is left.

Paper: zandieh2025turboquant (its abstract; formulas as in vLLM's `turboquant/centroids.py` and public implementations).
Symbols: b → `bits`; rotation R; codebook c.

A vector x is held as its norm n and, for each coordinate of y = R x / n, the number of the nearest centroid. Whatever
x is, a coordinate of y follows the law of a coordinate of a random unit vector, density ∝ (1 − t²)^((d − 3) / 2), for
which the codebook is optimal (Lloyd-Max). On average over rotations |x − x̂|² ≤ (√3 π / 2) 4^−b |x|². With
`unbiased`, keys spend one of the bits on signs of a Gaussian sketch of the residual, so that products with a query are
right on average, though the squared error is larger.

Departs:
1. The matrices are drawn once for all layers and heads, from a fixed seed, in full; vLLM takes a Walsh-Hadamard matrix.
2. Entries are read back before they are multiplied; a kernel would rotate the query and look up centroids.
3. That the unbiased form serves keys and the other one values is ours: the abstract says which error each is best for.
   Bits are whole; how the paper comes to 2.5 and 3.5 a channel was not read.

B batch · G key-value heads · N entries · d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.caches.quantised import Half, QuantisedStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.lvlm.contexts import CacheBits
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.quantisation import Codes, Format, pack, unpack
from lvlm_atlas.reference.ops.rotation import random_rotation
from lvlm_atlas.reference.refusal import Refusal

OFF = 16
"""Bits that mean: no quantisation."""
SEED = 0
_GRID = 1 << 15
_ROUNDS = 500
_STILL = 1e-9


@lru_cache(maxsize=64)
def codebook(width: int, bits: int) -> tuple[float, ...]:
    """Centroids (2^b), ascending, that are best for a coordinate of a random unit vector of d = `width` numbers.

    Lloyd's iteration on a grid of the density (1 − t²)^((d − 3) / 2): borders halfway between centroids, each centroid
    the mean of its cell.
    """
    most = min(1.0, 8 * width**-0.5)  # eight standard deviations
    t = most * ((torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID * 2 - 1)
    mass = (1 - t.square()) ** ((width - 3) / 2)
    zero = mass.new_zeros(1)
    total, moment = (torch.cat([zero, x.cumsum(0)]) for x in (mass, mass * t))
    spread = width**-0.5 * torch.linspace(-2, 2, 2**bits, dtype=torch.float64)
    centroid = spread - spread.mean()
    for _ in range(_ROUNDS):
        border = torch.searchsorted(t, (centroid[1:] + centroid[:-1]) / 2)
        cell = torch.cat([border.new_zeros(1), border, border.new_full((1,), _GRID)])
        weight = total[cell].diff()
        new = (moment[cell].diff() / weight).where(weight > 0, centroid)
        moved, centroid = float((new - centroid).abs().max()), new
        if moved < _STILL:
            break
    return tuple(centroid.tolist())


class Tables(nn.Module):
    """What vectors are quantised with, on the model's device in float32: centroids (2^b) and matrices (d, d).

    Args:
        width: d.
        bits: b of the codebook.
        seed: of rotation and sketch.
    """

    def __init__(self, width: int, bits: int, seed: int = SEED) -> None:
        super().__init__()
        self.bits = bits
        wide = torch.zeros(1)
        generator = torch.Generator().manual_seed(seed + 1)
        self.register_buffer("centroid_C", torch.tensor(codebook(width, bits)))
        self.register_buffer("rotation_dd", random_rotation(width, seed, wide))
        self.register_buffer("gaussian_dd", torch.randn(width, width, generator=generator))

    centroid_C: Tensor
    rotation_dd: Tensor
    gaussian_dd: Tensor


def quantise_rotated(x: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    """Codes (…, d) of the nearest centroids of R x / |x|, and the norms (…, 1) in the type of x."""
    norm = x.float().norm(dim=-1, keepdim=True)
    y = (x.float() / norm).nan_to_num(0) @ tables.rotation_dd.mT
    border = (tables.centroid_C[1:] + tables.centroid_C[:-1]) / 2
    return torch.bucketize(y, border).to(torch.uint8), norm.to(x.dtype)


def dequantise_rotated(code: Tensor, norm: Tensor, tables: Tables) -> Tensor:
    """Vectors (…, d): the centroids, rotated back and times the norm."""
    turned: Tensor = tables.centroid_C[code.long()] @ tables.rotation_dd * norm.float()
    return turned.to(norm.dtype)


def sketch(residual: Tensor, gaussian: Tensor) -> tuple[Tensor, Tensor]:
    """Signs (…, d), 1 for positive, of G r, and the norms (…, 1) of r."""
    return (residual.float() @ gaussian.mT >= 0).to(torch.uint8), residual.norm(dim=-1, keepdim=True)


def unsketch(sign: Tensor, norm: Tensor, gaussian: Tensor) -> Tensor:
    """|r| √(π / 2) / d · Gᵀ sign(G r): vectors (…, d) whose product with any query is that of r on average over G."""
    width = sign.shape[-1]
    back: Tensor = (sign.float() * 2 - 1) @ gaussian * ((torch.pi / 2) ** 0.5 / width) * norm.float()
    return back.to(norm.dtype)


def rotated_codebook(tables: Tables) -> Format:
    """The form of least squared error."""

    def encode(x: Tensor, _group_size: int) -> Codes:
        code, norm = quantise_rotated(x, tables)
        return Codes(pack(code, tables.bits), norm)

    def decode(codes: Codes, _group_size: int) -> Tensor:
        return dequantise_rotated(unpack(codes.packed, tables.bits), codes.scale, tables)

    return Format(encode, decode)


def unbiased_codebook(tables: Tables) -> Format:
    """The form whose products are right on average: a bit a coordinate more than the codebook has, for the sketch."""

    def encode(x: Tensor, _group_size: int) -> Codes:
        code, norm = quantise_rotated(x, tables)
        sign, rest = sketch(x - dequantise_rotated(code, norm, tables), tables.gaussian_dd)
        packed = torch.cat([pack(code, tables.bits), pack(sign, 1)], dim=-1)
        return Codes(packed, torch.cat([norm, rest], dim=-1))

    def decode(codes: Codes, _group_size: int) -> Tensor:
        width = len(tables.rotation_dd)
        packed, sign = codes.packed.split([width * tables.bits // 8, width // 8], dim=-1)
        norm, rest = codes.scale.split(1, dim=-1)
        found = dequantise_rotated(unpack(packed, tables.bits), norm, tables)
        return found + unsketch(unpack(sign, 1), rest, tables.gaussian_dd)

    return Format(encode, decode)


@dataclass(frozen=True)
class TurboQuant(Technique):
    """TurboQuant at `cache-bits`.

    Raises:
        ValueError: a parameter out of its range.
    """

    bits: int = 3
    """Bits b a coordinate; 16 turns quantisation off."""
    unbiased: bool = False
    """Whether keys spend one of the bits on a sketch of the residual."""

    acts_at: ClassVar = ("cache-bits",)
    needs: ClassVar = ("low-bit-kernel",)

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, OFF):
            raise ValueError(f"bits must be 2, 3, 4 or {OFF}, got {self.bits}")

    def begin(self, run: Run) -> _Acting:
        """What makes stores in this run."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    setting: TurboQuant
    run: Run

    def new_store(self, at: CacheBits) -> Store:
        """An empty store; every layer and head has the same matrices.

        Raises:
            Refusal: a head's codes do not fill whole bytes.
        """
        bits, width = self.setting.bits, at.entries.key_BGSd.shape[3]
        if bits == OFF:
            return PlainStore()
        if width % 8:
            raise Refusal(f"the codes of a head must fill whole bytes, but it has {width} channels, no multiple of 8")
        key = value = rotated_codebook(self._tables(width, bits))
        if self.setting.unbiased:
            key = unbiased_codebook(self._tables(width, bits - 1))
        return QuantisedStore(Half(key, width, across_tokens=False), Half(value, width, across_tokens=False))

    def _tables(self, width: int, bits: int) -> Tables:
        key = (TurboQuant, width, bits)
        return module_of(self.run, key, lambda: Tables(width, bits), dtype=torch.float32)
