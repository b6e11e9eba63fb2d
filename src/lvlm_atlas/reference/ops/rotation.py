"""Rotations that spread what few channels carry over all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def hadamard(width: int, like: Tensor) -> Tensor:
    """The Walsh-Hadamard matrix over √d, (d, d): symmetric, orthogonal, and its own inverse.

    Args:
        width: d, a power of two.
        like: a tensor of the device and type that are wanted.

    Raises:
        ValueError: d is no power of two.
    """
    if width < 1 or width & (width - 1):
        raise ValueError(f"a Walsh-Hadamard matrix has a power of two as its width, got {width}")
    matrix = like.new_ones(1, 1)
    while matrix.shape[0] < width:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)], dim=0)
    normed: Tensor = matrix / width**0.5
    return normed


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
