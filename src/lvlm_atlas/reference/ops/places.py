"""Places of the tokens that a mask selects or that lie evenly, and what stands there.

A leading shape (B,) or (B, G) says that each sequence, or each head of each, selects for itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def even_places(total: int, keep: int) -> Tensor:
    """Places (K,) of K = min(`keep`, `total`) of N = `total`, ascending: ⌊i · (N − 1) / (K − 1)⌋ for i = 0, …, K − 1.

    The first is always kept, and with two or more the last.
    """
    kept = min(keep, total)
    return torch.arange(kept) * (total - 1) // max(1, kept - 1)


def places_of(mask: Tensor) -> Tensor:
    """Places (…, K) of the True elements along the last axis of a mask (…, N), ascending.

    Raises:
        ValueError: the rows hold different numbers of True, which no tensor of places can.
    """
    counts = mask.sum(dim=-1).flatten()
    if bool((counts != counts[:1]).any()):
        raise ValueError(
            f"each row of a mask must select equally many of its {mask.shape[-1]} places, got {_listed(counts)}; "
            f"rank the scores and take the same number in every row"
        )
    return mask.nonzero()[:, -1].reshape(*mask.shape[:-1], -1)


def uneven_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Places (…, K) of the True elements of a mask (…, N) whose rows may select different numbers, and which are real.

    K is the most that a row selects. What a row has less is filled up in front with places that it does not select,
    marked False in the second tensor (…, K); what it selects stands at the end, ascending.
    """
    longest = int(mask.sum(dim=-1).max()) if mask.numel() else 0
    place = mask.byte().argsort(dim=-1, stable=True)[..., mask.shape[-1] - longest :]
    return place, mask.gather(-1, place)


def mask_of(index: Tensor, length: int) -> Tensor:
    """True (…, N) at the places (…, K); undoes `places_of`. The places may come in any order.

    Args:
        index: places, each in 0 … N − 1.
        length: N.
    """
    return torch.zeros(*index.shape[:-1], length, dtype=torch.bool, device=index.device).scatter(-1, index, value=True)


def take(x: Tensor, index: Tensor) -> Tensor:
    """What stands at the places (…, K) of a tensor (…, N, *), row by row: (…, K, *)."""
    inner = x.shape[index.dim() :]
    wide = index.reshape(*index.shape, *(1 for _ in inner)).expand(*index.shape, *inner)
    return x.gather(index.dim() - 1, wide)


def take_columns(weight_BHRN: Tensor, index_BK: Tensor) -> Tensor:
    """Columns of attention rows: (B, H, R, N) and (B, K) → (B, H, R, K)."""
    index = index_BK[:, None, None, :].expand(*weight_BHRN.shape[:3], index_BK.shape[1])
    return weight_BHRN.gather(3, index)


def _listed(counts: Tensor) -> str:
    """The first counts, for a message."""
    shown = ", ".join(map(str, counts[:16].tolist()))
    return f"{shown}, …" if len(counts) > 16 else shown
