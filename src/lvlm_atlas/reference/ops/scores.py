"""Scores of cache entries by the attention that they received.

B batch, H query heads, G key-value heads, R query rows, S entries, W entries before a window.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Reduction = Literal["mean", "max"]


def group_heads(score_BHS: Tensor, groups: int, how: Reduction = "mean") -> Tensor:
    """Mean or maximum over the query heads that share a key-value head: (B, H, S) → (B, G, S).

    Args:
        score_BHS: scores of each query head; heads that share a key-value head are neighbours.
        groups: G, a divisor of H.
        how: `mean` or `max`.
    """
    batch, heads, entries = score_BHS.shape
    score_BGhS = score_BHS.reshape(batch, groups, heads // groups, entries)
    return score_BGhS.mean(dim=2) if how == "mean" else score_BGhS.amax(dim=2)


def accumulated_attention(weight_BHRS: Tensor, groups: int) -> Tensor:
    """Column sums of the attention map (B, G, S), mean over the query heads of each key-value head."""
    return group_heads(weight_BHRS.sum(dim=2), groups)


def carried_over(score_BGK: Tensor, index_BGK: Tensor, now_BGS: Tensor) -> Tensor:
    """Scores (B, G, S) of the entries held now, by the token that each is; 0 for those that had none.

    What an entry has accumulated stays with it through evictions, whoever evicts, and goes with it.

    Args:
        score_BGK: scores of the entries held before.
        index_BGK: which token each of them was; ascending.
        now_BGS: which token each entry is now.
    """
    if not index_BGK.shape[2]:
        return score_BGK.new_zeros(now_BGS.shape)
    place_BGS = torch.searchsorted(index_BGK.contiguous(), now_BGS.contiguous()).clamp(max=index_BGK.shape[2] - 1)
    return score_BGK.gather(2, place_BGS) * (index_BGK.gather(2, place_BGS) == now_BGS)


def attention_per_row(weight_BHRS: Tensor, groups: int) -> Tensor:
    """Column sums (B, G, S) divided by the rows that see the entry, mean over the query heads of each key-value head.

    Column sums alone favour early entries, which more rows see.

    Args:
        weight_BHRS: the last R rows of a causal map, so that the last row sees all S entries.
        groups: G.
    """
    rows, entries = weight_BHRS.shape[2:]
    seeing_S = (entries - weight_BHRS.new_ones(entries).cumsum(0) + 1).clamp(max=rows)
    return accumulated_attention(weight_BHRS, groups) / seeing_S


def windowed_attention(weight_BHRS: Tensor, groups: int, how: Reduction = "mean") -> Tensor:
    """What the window, the last R entries, pays to each entry before it: (B, G, W), W = S − R.

    Sums over the rows of the window, then mean or maximum over the query heads of each key-value head, as in SnapKV.

    Args:
        weight_BHRS: softmax rows of the window over all S entries. The softmax includes the window's own entries, which
            are cut off afterwards.
        groups: G.
        how: over query heads, `mean` or `max`.

    Raises:
        ValueError: the window is longer than the entries.
    """
    window, entries = weight_BHRS.shape[2:]
    if window > entries:
        raise ValueError(f"the window must be among the {entries} entries, got {window} rows")
    return group_heads(weight_BHRS[..., : entries - window].sum(dim=2), groups, how)


def pool_scores(score_BGS: Tensor, kernel: int, how: Reduction = "mean") -> Tensor:
    """Each score becomes the mean or maximum of the `kernel` scores around it: (B, G, S) → (B, G, S).

    Neighbours of an entry that scores high are kept with it. Beyond the ends scores count as 0 in the mean, as in the
    average pooling of SnapKV, and not at all in the maximum.

    Args:
        score_BGS: scores along the keys.
        kernel: odd; 1 changes nothing.
        how: `mean` or `max`.

    Raises:
        ValueError: the kernel is even, which would shift scores, or less than 1.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and at least 1, got {kernel}")
    if not score_BGS.shape[-1]:
        return score_BGS
    pool = functional.avg_pool1d if how == "mean" else functional.max_pool1d
    return pool(score_BGS, kernel, stride=1, padding=kernel // 2)
