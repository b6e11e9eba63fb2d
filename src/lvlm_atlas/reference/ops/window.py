"""Attention in a sliding window, with the first tokens always in sight.

B batch, H query heads, G key-value heads, N tokens, S keys (earlier ones, then the tokens), I first tokens, d head
dimension, v that of values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.attention import Rotary, share_heads

_FEWEST_ROWS, _MOST_ROWS = 16, 256
"""Queries whose scores are formed at once: as many as the window has tokens, within these limits, so that of the scores
formed no more than about half are out of sight."""


@dataclass(frozen=True)
class Window:
    """What each token of a prompt attends to: the most recent tokens, and the first ones at one distance."""

    size: int
    """Tokens in the window, the token itself among them; at least 1."""
    first: int = 0
    """First tokens (sinks) that stay in sight behind the window."""
    distance: int | None = None
    """Distance at which the first tokens are seen once they have left the window; None: their own."""


def window_attention(
    query_BHNd: Tensor,
    key_BGSd: Tensor,
    value_BGSv: Tensor,
    position_BN: Tensor,
    position_BS: Tensor | None,
    window: Window,
    rotary: Rotary,
) -> tuple[Tensor, int]:
    """Softmax attention (B, H, N, v) in the window, and how many scores were computed.

    A first token in the window is seen where it is; once it has left the window it is seen at the fixed distance.

    Args:
        query_BHNd: queries, rotated.
        key_BGSd: keys, rotated; the last N are those of the queries' tokens.
        value_BGSv: values.
        position_BN: positions of the queries, on one axis; B may be 1.
        position_BS: positions of the keys; None where the window gives the first tokens no distance of their own.
        window: what is in sight.
        rotary: how positions turn queries and keys.
    """
    batch, heads, length, d = query_BHNd.shape
    keys, first = key_BGSd.shape[2], min(window.first, key_BGSd.shape[2])
    far_query, far_key = query_BHNd, key_BGSd[:, :, :first]
    if window.distance is not None:
        if position_BS is None:
            raise ValueError("keys need positions to be seen at a fixed distance; give position_BS")
        # Turned on by what is missing to the distance: queries stand there, first tokens at 0.
        far_query = rotary(query_BHNd, window.distance - position_BN)
        far_key = rotary(far_key, -position_BS[:, :first])
    key, value, far_key = (share_heads(x, heads) for x in (key_BGSd, value_BGSv, far_key))
    parts, scores = [], 0
    rows = min(max(window.size, _FEWEST_ROWS), _MOST_ROWS)
    for start in range(0, length, rows):
        end = min(start + rows, length)
        place_M = torch.arange(keys - length + start, keys - length + end, device=key.device)
        places = range(keys - length + start, keys - length + end)
        near_W = torch.arange(max(0, places[0] - window.size + 1), places[-1] + 1, device=key.device)
        near_MW = (near_W <= place_M[:, None]) & (near_W > place_M[:, None] - window.size)
        left = min(first, max(0, places[-1] - window.size + 1))  # first tokens that some query has lost from its window
        far_MI = torch.arange(left, device=key.device) <= place_M[:, None] - window.size
        near = query_BHNd[:, :, start:end] @ key[:, :, near_W].mT
        far = far_query[:, :, start:end] @ far_key[:, :, :left].mT
        seen = torch.cat([far_MI, near_MW], dim=1)
        logit = torch.cat([far, near], dim=-1).float() * d**-0.5
        weight = logit.masked_fill(~seen, float("-inf")).softmax(-1).to(value.dtype)
        parts.append(weight @ torch.cat([value[:, :, :left], value[:, :, near_W]], dim=2))
        in_sight = (min(window.size, p + 1) + min(max(0, p - window.size + 1), first) for p in places)
        scores += sum(in_sight) * heads * batch
    return torch.cat(parts, dim=2), scores
