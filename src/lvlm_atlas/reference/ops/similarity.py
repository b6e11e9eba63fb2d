"""Cosines.

B batch, T frames, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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


def likeness_to_frame_before(token_TND: Tensor) -> Tensor:
    """Cosine (T − 1, N), float32, of each token of a later frame and the one at its place in the frame before."""
    token_TND = token_TND.float()
    return functional.cosine_similarity(token_TND[1:], token_TND[:-1], dim=-1)
