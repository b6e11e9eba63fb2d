"""A rotation that spreads what few channels carry over all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def random_rotation(width: int, seed: int, like: Tensor) -> Tensor:
    """An orthogonal matrix (d, d) drawn evenly from all of them: Q of a Gaussian matrix's QR, signs as in R's diagonal.

    It is drawn on the CPU, so that a seed means the same matrix everywhere.

    Args:
        width: d.
        seed: of the draw.
        like: a tensor of the device and type that are wanted.
    """
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    rotation: Tensor = q * r.diagonal().sign()
    return rotation.to(like)
