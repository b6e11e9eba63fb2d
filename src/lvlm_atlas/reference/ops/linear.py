"""Linear attention: a feature map in place of the exponential, so that keys add up to a state of constant size.

B batch, H heads, M new tokens, U those that are in no state yet, N tokens, e features, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.ops.attention import causal_mask

FEATURE_MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda x: functional.elu(x) + 1,
    "relu": functional.relu,
}
"""What queries and keys are mapped by; none gives a negative number."""
EPS = 1e-10
"""Added to the sum of weights."""


@dataclass(frozen=True)
class State:
    """All keys and values of the past."""

    sum_BHed: Tensor
    """Σ φ(k) vᵀ."""
    norm_BHe: Tensor
    """Σ φ(k)."""

    def add(self, key_BHMe: Tensor, value_BHMd: Tensor) -> State:
        """With these tokens."""
        return State(self.sum_BHed + key_BHMe.mT @ value_BHMd, self.norm_BHe + key_BHMe.sum(2))

    def shared(self, heads: int) -> State:
        """That of key-value heads for the query heads that share them."""
        times = heads // self.sum_BHed.shape[1]
        return State(self.sum_BHed.repeat_interleave(times, dim=1), self.norm_BHe.repeat_interleave(times, dim=1))


def empty(key_BHMe: Tensor, value_BHMd: Tensor) -> State:
    """Of no tokens."""
    sum_BHed = value_BHMd.new_zeros(*key_BHMe.shape[:2], key_BHMe.shape[3], value_BHMd.shape[3])
    return State(sum_BHed, key_BHMe.new_zeros(*key_BHMe.shape[:2], key_BHMe.shape[3]))


def attend_behind(
    query_BHMe: Tensor, key_BHUe: Tensor, value_BHUd: Tensor, state: State, mask: Tensor | None = None
) -> Tensor:
    """What new tokens read of a state and of one another, divided by the sum of their weights: (B, H, M, d).

    Args:
        query_BHMe: φ(q).
        key_BHUe: φ(k) of those and of others that are not in the state.
        value_BHUd: values of these.
        state: the past.
        mask: True (M, U), or what broadcasts to (B, H, M, U), where a new token sees another; None: everywhere.
    """
    weight_BHMU = query_BHMe @ key_BHUe.mT
    if mask is not None:
        weight_BHMU = weight_BHMU.masked_fill(~mask, 0)
    out_BHMd = weight_BHMU @ value_BHUd + query_BHMe @ state.sum_BHed
    total_BHM1 = weight_BHMU.sum(-1, keepdim=True) + query_BHMe @ state.norm_BHe[..., None]
    return out_BHMd / (total_BHM1 + EPS)


def chunked(
    query_BHNe: Tensor, key_BHNe: Tensor, value_BHNd: Tensor, chunk: int, state: State | None = None
) -> tuple[Tensor, State]:
    """Causal linear attention (B, H, N, d), chunk by chunk, and the state behind it. The chunk changes no result."""
    state, parts = state or empty(key_BHNe, value_BHNd), []
    for start in range(0, query_BHNe.shape[2], chunk):
        new = [x[:, :, start : start + chunk] for x in (query_BHNe, key_BHNe, value_BHNd)]
        parts.append(attend_behind(new[0], new[1], new[2], state, causal_mask(new[0].shape[2], new[0].device)))
        state = state.add(new[1], new[2])
    return torch.cat(parts, dim=2), state
