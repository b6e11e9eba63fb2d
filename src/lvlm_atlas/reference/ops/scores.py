"""Scores of cache entries by the attention that they received.

B batch, H query heads, G key-value heads, R query rows, S entries.
"""

from __future__ import annotations

from torch import Tensor


def accumulated_attention(weight_BHRS: Tensor, groups: int) -> Tensor:
    """Column sums of the attention map (B, G, S), mean over the query heads of each key-value head."""
    score_BHS = weight_BHRS.sum(dim=2)
    return score_BHS.reshape(len(score_BHS), groups, -1, score_BHS.shape[-1]).mean(dim=2)
