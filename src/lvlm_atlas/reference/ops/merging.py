"""Tokens matched in pairs and merged.

Paper: bolya2023tome, sec. 3; the two sets A and B are even and odd places.

B batch, N tokens, K tokens after merging, P patches, d width of the metric, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.ops.similarity import unit


@dataclass(frozen=True)
class Matching:
    """Which tokens become one."""

    group_BN: Tensor
    """For each token its place after merging, 0 … K − 1."""
    count: int
    """K, tokens after merging."""

    def assignment(self, dtype: torch.dtype) -> Tensor:
        """(B, N, K), 1 where a token goes into a group."""
        return functional.one_hot(self.group_BN, self.count).to(dtype)

    def merge(self, x_BND: Tensor) -> Tensor:
        """Sum of each group: (B, N, D) → (B, K, D)."""
        return self.assignment(x_BND.dtype).mT @ x_BND

    def unmerge(self, x_BKD: Tensor) -> Tensor:
        """Each token gets its group's value: (B, K, D) → (B, N, D)."""
        return x_BKD.gather(1, self.group_BN[..., None].expand(-1, -1, x_BKD.shape[-1]))

    def then(self, later: Matching) -> Matching:
        """This matching, and another one of the K tokens that it leaves."""
        return Matching(later.group_BN.gather(1, self.group_BN), later.count)


def bipartite_soft_matching(metric_BNd: Tensor, r: int, protected: int = 0) -> Matching:
    """Match tokens at even places with their most similar token at an odd place, and merge the r best pairs.

    Args:
        metric_BNd: what similarity is measured on: keys, averaged over heads.
        r: tokens to remove; no more than half of the unprotected ones are.
        protected: see `match_pairs`.

    Raises:
        ValueError: `protected` is not 0, 1 or 2.
    """
    if r <= 0:
        return unmerged(len(metric_BNd), metric_BNd.shape[1], metric_BNd.device)
    return match_pairs(even_odd_cosine(metric_BNd), r, protected)


def even_odd_cosine(metric_BNd: Tensor) -> Tensor:
    """Cosine of each token at an even place with each at an odd one: (B, N, d) → (B, ⌈N / 2⌉, ⌊N / 2⌋)."""
    unit_BNd = unit(metric_BNd)
    return unit_BNd[:, ::2] @ unit_BNd[:, 1::2].mT


def match_pairs(score_BEO: Tensor, r: int, protected: int = 0) -> Matching:
    """Match each token at an even place with the one at an odd place of highest score, and merge the r best pairs.

    After merging, the even tokens that stayed come first and the odd ones follow. With a class token the former
    keep their order, so that it stays in front; without one they come by falling score, as upstream.

    Args:
        score_BEO: of even with odd tokens, one more of the former where N is odd.
        r: tokens to remove; no more than half of the unprotected ones are.
        protected: leading tokens that are never merged: 0, 1 (class token) or 2 (class and distillation token).

    Raises:
        ValueError: `protected` is not 0, 1 or 2.
    """
    if protected not in (0, 1, 2):
        raise ValueError(f"protected must be 0, 1 (class token) or 2 (with a distillation token), got {protected}")
    batch, even, odd = score_BEO.shape
    tokens, device = even + odd, score_BEO.device
    r = min(r, (tokens - protected) // 2)
    if r <= 0:
        return unmerged(batch, tokens, device)
    score_BEO = score_BEO.clone()
    if protected >= 1:
        score_BEO[:, 0] = float("-inf")
    if protected == 2:
        score_BEO[:, :, 0] = float("-inf")
    best_BE, partner_BE = score_BEO.max(dim=-1)
    order_BE = best_BE.argsort(dim=-1, descending=True, stable=True)
    source_Br, stay_BU = order_BE[:, :r], order_BE[:, r:]
    if protected:
        stay_BU = stay_BU.sort(dim=-1).values
    stayed = stay_BU.shape[1]
    place_U = torch.arange(stayed, device=device)
    place_O = stayed + torch.arange(odd, device=device)
    if protected == 2:  # the two special tokens, first even and first odd, stay side by side in front
        place_U, place_O = torch.where(place_U > 0, place_U + 1, 0), torch.where(place_O > stayed, place_O, 1)
    group_BN = torch.empty(batch, tokens, dtype=torch.long, device=device)
    group_BN[:, 1::2] = place_O
    group_BN.scatter_(1, 2 * stay_BU, place_U.expand_as(stay_BU))
    group_BN.scatter_(1, 2 * source_Br, place_O[partner_BE.gather(1, source_Br)])
    return Matching(group_BN, tokens - r)


def unmerged(batch: int, tokens: int, device: torch.device) -> Matching:
    """The matching in which each token stays itself, where it stands."""
    return Matching(torch.arange(tokens, device=device).expand(batch, tokens), tokens)


def merge_wavg(matching: Matching, x_BND: Tensor, size_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean of each group, weighted by what its tokens stand for: x (B, K, D) and the new sizes (B, K)."""
    if size_BN is None:
        size_BN = torch.ones_like(x_BND[..., 0])
    merged_BK1 = matching.merge(size_BN[..., None])
    return matching.merge(x_BND * size_BN[..., None]) / merged_BK1, merged_BK1[..., 0]


def merge_source(matching: Matching, source_BNP: Tensor | None = None) -> Tensor:
    """Which of the P patches at the start each token stands for, after merging: (B, N, P) → (B, K, P), 0 or 1.

    None stands for the start, each token for itself. Groups never share a patch, so that summing is enough.
    """
    if source_BNP is None:
        return matching.assignment(torch.get_default_dtype()).mT
    return matching.merge(source_BNP)
