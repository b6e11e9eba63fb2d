"""Selection by score: the best k, those that hold a share of the mass, those above a threshold.

One order holds everywhere: the higher score first, of equal scores the lower place. A leading shape (B,) or (B, G) says
that each sequence, or each head of each, selects for itself.

N places, K kept, J groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.places import mask_of


def ranking(score: Tensor, first: Tensor | None = None) -> Tensor:
    """Places (…, N) from the best to the worst.

    Args:
        score: numbers (…, N).
        first: mask (…, N) of places that precede all others, whatever their score (text before vision, say). Ordering
            by both keys is exact; raising scores by a large number instead rounds away their differences.
    """
    order = score.argsort(dim=-1, descending=True, stable=True)
    if first is None:
        return order
    last = ~first.expand_as(score).gather(-1, order)
    return order.gather(-1, last.byte().argsort(dim=-1, stable=True))


def top_places(score: Tensor, keep: int, first: Tensor | None = None) -> Tensor:
    """Places (…, K) of the `keep` best, ascending, which is reading order.

    Args:
        score: numbers (…, N).
        keep: K, from 0 to N.
        first: see `ranking`.

    Raises:
        ValueError: `keep` lies outside that range.
    """
    if not 0 <= keep <= score.shape[-1]:
        raise ValueError(f"keep must be in 0..{score.shape[-1]} (the scores of a row), got {keep}")
    return ranking(score, first)[..., :keep].sort(dim=-1).values


def top_mask(score: Tensor, keep: Tensor | int, first: Tensor | None = None) -> Tensor:
    """True (…, N) at the best places of each row.

    Args:
        score: numbers (…, N).
        keep: how many, from 0 to N: one number, or one for each row (…,), such as a budget for each head.
        first: see `ranking`.

    Raises:
        ValueError: a number lies outside that range.
    """
    tokens = score.shape[-1]
    legal = bool(((keep >= 0) & (keep <= tokens)).all()) if isinstance(keep, Tensor) else 0 <= keep <= tokens
    if not legal:
        got = keep.tolist() if isinstance(keep, Tensor) else keep
        raise ValueError(f"keep must be in 0..{tokens} (the scores of a row), got {got}")
    enters = torch.arange(tokens, device=score.device) < (keep[..., None] if isinstance(keep, Tensor) else keep)
    chosen = enters.expand_as(score)
    return torch.zeros_like(chosen).scatter(-1, ranking(score, first), chosen)


def recent_and_best(score: Tensor, recent: int, best: int, first: Tensor | None = None) -> Tensor:
    """True (…, N) at the `recent` last places and at the `best` places of highest score before them, all if fewer.

    Args:
        score: numbers (…, N).
        recent: from 0 on; all places are recent where it reaches N.
        best: from 0 on.
        first: see `ranking`.
    """
    older = max(0, score.shape[-1] - recent)
    best_mask = top_mask(score[..., :older], min(best, older), first=None if first is None else first[..., :older])
    return torch.cat([best_mask, torch.ones_like(score[..., older:], dtype=torch.bool)], dim=-1)


def rank_in_group(score: Tensor, group: Tensor) -> Tensor:
    """The rank (…, N) of each place among those of its group: 0 for the best.

    Args:
        score: numbers (…, N).
        group: the group (…, N) of each place, any whole numbers.
    """
    order = ranking(score)
    order = order.gather(-1, group.gather(-1, order).argsort(dim=-1, stable=True))
    ordered_group = group.gather(-1, order).contiguous()
    rank = torch.arange(score.shape[-1], device=score.device) - torch.searchsorted(ordered_group, ordered_group)
    return torch.zeros_like(order).scatter(-1, order, rank)


def top_mask_of_groups(score: Tensor, group: Tensor, keep_J: Tensor) -> Tensor:
    """True (…, N) at the best places of each group, so that every group is represented.

    Args:
        score: numbers (…, N).
        group: the group (…, N) of each place, 0 … J − 1: frames, segments, modalities.
        keep_J: how many of each group; a smaller group is kept whole.
    """
    order = ranking(score)
    # Grouped, with the order by score kept within a group: the rank in the group is the distance from its start.
    grouped = order.gather(-1, group.expand_as(score).gather(-1, order).argsort(dim=-1, stable=True))
    ordered_group = group.expand_as(score).gather(-1, grouped)
    rank = torch.arange(score.shape[-1], device=score.device) - torch.searchsorted(ordered_group, ordered_group)
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, grouped, rank < keep_J[ordered_group])


def mass_count(score: Tensor, mass: float) -> Tensor:
    """The least number (…,) of scores, best first, whose sum reaches `mass` of the total; summed in float64.

    Args:
        score: numbers (…, N), none of them negative.
        mass: share of the total, from 0 (no score) to 1 (all that are not zero).

    Raises:
        ValueError: a score is negative or NaN, or `mass` lies outside [0, 1].
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"mass must lie in [0, 1], got {mass}")
    if not bool((score >= 0).all()):
        raise ValueError(f"scores must not be negative, nor NaN, to hold shares of a sum, got {float(score.min())}")
    reached = score.double().sort(dim=-1, descending=True).values.cumsum(dim=-1)
    # Against the last sum and not a sum of its own, which may round above it and be reached by none.
    before = torch.cat([torch.zeros_like(reached[..., :1]), reached[..., :-1]], dim=-1)
    return (before < mass * reached[..., -1:]).sum(dim=-1)


def threshold_mask(score: Tensor, threshold: Tensor | float, least: int = 0) -> Tensor:
    """True (…, N) where a score is strictly above the threshold, and at the `least` best places at any rate.

    Args:
        score: numbers (…, N).
        threshold: one number, or one for each row (…, 1).
        least: from 0 to N.

    Raises:
        ValueError: `least` lies outside that range.
    """
    return (score > threshold) | mask_of(top_places(score, least), score.shape[-1])
