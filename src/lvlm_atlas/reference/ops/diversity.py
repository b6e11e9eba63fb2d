"""Tokens that lie far apart, or that cover the others.

B batch, V tokens to choose from, S tokens to start from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.places import mask_of, take
from lvlm_atlas.reference.ops.selection import ranking


def select_diverse(distance_BVV: Tensor, keep: int) -> Tensor:
    """Greedy max-min diversity: places (B, `keep`) in the order in which they are chosen.

    The first is the token farthest from its nearest neighbour; the others follow as in `farthest_points`.

    Args:
        distance_BVV: pairwise distances.
        keep: tokens to choose, from 0 to V.

    Raises:
        ValueError: `keep` lies outside that range.
    """
    _check(keep, 0, distance_BVV.shape[1])
    if not keep:
        return torch.empty(len(distance_BVV), 0, dtype=torch.long, device=distance_BVV.device)
    # The smallest distance is a token's to itself, so that its nearest neighbour is at the second smallest.
    nearest_BV = distance_BVV.topk(min(2, distance_BVV.shape[1]), dim=1, largest=False).values[:, -1]
    return farthest_points(distance_BVV, nearest_BV.argmax(dim=1, keepdim=True), keep)


def farthest_points(distance_BVV: Tensor, start_BS: Tensor, keep: int) -> Tensor:
    """Farthest-point sampling: places (B, `keep`), those of the start first, then in the order of choice.

    Each next token is the one whose nearest chosen token is farthest; of equals the first.

    Args:
        distance_BVV: pairwise distances.
        start_BS: places chosen beforehand, all different; one at least where tokens remain to be chosen.
        keep: tokens to return, from S to V.

    Raises:
        ValueError: `keep` lies outside that range, or there is nothing to be far from.
    """
    start = start_BS.shape[1]
    _check(keep, start, distance_BVV.shape[1])
    if keep and not start:
        raise ValueError(f"one token at least must be chosen beforehand to be far from, got none for keep = {keep}")
    if keep == start:
        return start_BS
    chosen = [start_BS]
    free_BV = ~mask_of(start_BS, distance_BVV.shape[1])
    nearest_BV = take(distance_BVV, start_BS).amin(dim=1)
    for _ in range(keep - start):
        pick_B1 = nearest_BV.masked_fill(~free_BV, float("-inf")).argmax(dim=1, keepdim=True)
        free_BV = free_BV.scatter(1, pick_B1, value=False)
        nearest_BV = torch.minimum(nearest_BV, take(distance_BVV, pick_B1)[:, 0])
        chosen.append(pick_B1)
    return torch.cat(chosen, dim=1)


def greedy_map(kernel_BVV: Tensor, keep: int) -> Tensor:
    """Greedy maximum a posteriori set of a determinantal point process: places (B, `keep`) in the order of choice.

    Each next token raises the determinant of the chosen tokens' kernel most; of equals the first. A token's gain is
    the square d² of its diagonal element in a Cholesky factor, to which each step adds one row for all tokens:
    O(V · keep²) in all (the algorithm of Chen, Zhang and Zhou, NeurIPS 2018).

    Once the chosen tokens span all others, gains are rounding errors. Up to V · ε · (largest diagonal element) they
    count as 0, so that the rest (zero vectors, duplicates) follows by place.

    Args:
        kernel_BVV: symmetric and positive semidefinite; diag(relevance) · similarity · diag(relevance), for example.
        keep: tokens to choose, from 0 to V.

    Raises:
        ValueError: `keep` lies outside that range.
    """
    batch, tokens = kernel_BVV.shape[:2]
    _check(keep, 0, tokens)
    if not keep:
        return torch.empty(batch, 0, dtype=torch.long, device=kernel_BVV.device)
    kernel_BVV = kernel_BVV.to(torch.promote_types(kernel_BVV.dtype, torch.float32))
    gain_BV = kernel_BVV.diagonal(dim1=1, dim2=2)
    least_B1 = gain_BV.amax(dim=1, keepdim=True) * torch.finfo(kernel_BVV.dtype).eps * tokens
    free_BV = torch.ones_like(gain_BV, dtype=torch.bool)
    factor_BKV = kernel_BVV.new_zeros(batch, keep, tokens)
    chosen_BK = torch.zeros(batch, keep, dtype=torch.long, device=kernel_BVV.device)
    for k in range(keep):
        gain_BV = gain_BV.where(gain_BV > least_B1, 0)
        pick_B1 = gain_BV.masked_fill(~free_BV, -1).argmax(dim=1, keepdim=True)
        free_BV = free_BV.scatter(1, pick_B1, value=False)
        chosen_BK[:, k : k + 1] = pick_B1
        picked_B1 = gain_BV.gather(1, pick_B1)
        so_far_BkV = factor_BKV[:, :k]
        explained_BV = (so_far_BkV.mT @ so_far_BkV.gather(2, pick_B1[:, None].expand(-1, k, -1)))[..., 0]
        row_BV = (take(kernel_BVV, pick_B1)[:, 0] - explained_BV) / picked_B1.sqrt()
        factor_BKV[:, k] = row_BV.where(picked_B1 > 0, 0)
        gain_BV = gain_BV - factor_BKV[:, k] ** 2
    return chosen_BK


def greedy_cover(
    likeness_BVV: Tensor, weight_BV: Tensor, keep: int, *, add: bool = False, demand_BV: Tensor | None = None
) -> Tensor:
    """Greedy set cover by likeness: places (B, `keep`) in the order of choice.

    A token is covered as well as the chosen token most like it resembles it, and by 0 at least. The gain of a token is
    what it would add to the cover of all tokens, summed; each next token has the largest gain times weight, of equals
    the first.

    Args:
        likeness_BVV: pairwise, such as cosines; symmetric.
        weight_BV: how much the gain of each token counts.
        keep: tokens to choose, from 0 to V.
        add: whether weights are added to the gains and do not multiply them.
        demand_BV: how much it counts that each token is covered; None: one as much as another.

    Raises:
        ValueError: `keep` lies outside that range.
    """
    batch, tokens = weight_BV.shape
    _check(keep, 0, tokens)
    cover_BV = torch.zeros_like(likeness_BVV[:, 0])
    free_BV = torch.ones_like(cover_BV, dtype=torch.bool)
    chosen_BK = torch.zeros(batch, keep, dtype=torch.long, device=likeness_BVV.device)
    for k in range(keep):
        more_BVV = (likeness_BVV - cover_BV[:, None]).clamp(min=0)
        gain_BV = (more_BVV if demand_BV is None else more_BVV * demand_BV[:, None]).sum(dim=2)
        value_BV = gain_BV + weight_BV if add else gain_BV * weight_BV
        pick_B1 = value_BV.masked_fill(~free_BV, float("-inf")).argmax(dim=1, keepdim=True)
        free_BV = free_BV.scatter(1, pick_B1, value=False)
        cover_BV = torch.maximum(cover_BV, take(likeness_BVV, pick_B1)[:, 0])
        chosen_BK[:, k : k + 1] = pick_B1
    return chosen_BK


def maximal_marginal_relevance(
    relevance_BV: Tensor, likeness_BVV: Tensor, keep: int, weight: float, at_once: int = 1
) -> Tensor:
    """Greedy choice by relevance and against likeness to what is chosen: places (B, `keep`) in the order of choice.

    The first are the most relevant. In each later round it is those of largest
    weight · relevance − (1 − weight) · (likeness to the chosen token most like it), of equals the first.

    Args:
        relevance_BV: on the scale of the likeness.
        likeness_BVV: pairwise, such as cosines; symmetric.
        keep: tokens to choose, from 0 to V.
        weight: of the relevance, from 0 to 1.
        at_once: tokens chosen in a round, which do not repel each other; one at least.

    Raises:
        ValueError: `keep` lies outside its range, or a round would choose nothing.
    """
    _check(keep, 0, relevance_BV.shape[1])
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once}")
    free_BV = torch.ones_like(relevance_BV, dtype=torch.bool)
    score_BV, nearest_BV = relevance_BV, torch.full_like(relevance_BV, float("-inf"))
    chosen = [torch.empty(len(relevance_BV), 0, dtype=torch.long, device=relevance_BV.device)]
    for first in range(0, keep, at_once):
        score_BV = score_BV.masked_fill(~free_BV, float("-inf"))
        pick_BK = ranking(score_BV)[:, : min(at_once, keep - first)]
        free_BV = free_BV.scatter(1, pick_BK, value=False)
        nearest_BV = torch.maximum(nearest_BV, take(likeness_BVV, pick_BK).amax(dim=1))
        score_BV = weight * relevance_BV - (1 - weight) * nearest_BV
        chosen.append(pick_BK)
    return torch.cat(chosen, dim=1)


def _check(keep: int, least: int, tokens: int) -> None:
    if not least <= keep <= tokens:
        raise ValueError(f"keep must be in {least}..{tokens} (the tokens), got {keep}")
