"""Cosines.

B batch, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Vectors (…, D) divided by their length; a zero vector stays zero, and has cosine 0 with every other."""
    length = x.norm(dim=-1, keepdim=True)
    out: Tensor = x / length.clamp(min=torch.finfo(x.dtype).tiny)
    return out


def cosine_distance(x_BND: Tensor) -> Tensor:
    """1 − cosine of each pair: (B, N, D) → (B, N, N)."""
    unit_BND = unit(x_BND)
    distance_BNN: Tensor = 1.0 - unit_BND @ unit_BND.mT
    return distance_BNN
