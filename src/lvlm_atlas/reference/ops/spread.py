"""How far attention spreads: what tells layers and heads apart that need many entries from those that need few.

B batch, H query heads, R query rows, S entries.
"""

from __future__ import annotations

from torch import Tensor


def attention_sparsity(weight_BHRS: Tensor, threshold: float, visible_RS: Tensor | None = None) -> Tensor:
    """Share (B, H) of the visible entries whose weight is below `threshold` · (the greatest weight of their row).

    VL-Cache averages it over heads and measures it on the rows after the last vision token, with a threshold of 0.01.

    Args:
        weight_BHRS: softmax rows.
        threshold: relative to each row.
        visible_RS: True where a row may look; None means everywhere. Others count neither as small nor at all.
    """
    small_BHRS = weight_BHRS < threshold * weight_BHRS.amax(dim=-1, keepdim=True)
    if visible_RS is None:
        return small_BHRS.double().mean(dim=(-2, -1))
    return (small_BHRS & visible_RS).sum(dim=(-2, -1)) / visible_RS.sum()


def attention_entropy(weight_BHRS: Tensor) -> Tensor:
    """−Σ w log w of each row in nats, mean over rows: (B, H); from 0, one entry, to log S, all alike."""
    surprise_BHRS = weight_BHRS * weight_BHRS.where(weight_BHRS > 0, 1).log()  # 0 · log 0 = 0
    return -surprise_BHRS.sum(dim=-1).mean(dim=-1)
