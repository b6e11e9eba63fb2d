"""Whole numbers of entries for layers, heads or modalities.

Papers round each share on its own, and end some entries above or below what was asked. `apportion` gives out exactly
what was asked, within what each part holds.

B batch, G heads or other parts that share a budget, S entries of each, L layers.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.selection import top_mask


def apportion(weight: Tensor, total: int, floor: Tensor | int = 0, ceiling: Tensor | int | None = None) -> Tensor:
    """Whole shares of a total, in proportion to weights but within bounds; their sum is exactly the total.

    Parts whose proportional share lies outside their bounds get the bound, and the others share the rest in proportion
    (equally where their weights are all 0). Shares are then rounded down, and what is left goes one each to the largest
    remainders, of equals to the first. All of it is exact rational arithmetic.

    Args:
        weight: finite numbers of any shape, none of them negative.
        total: what to give out.
        floor: least share of each part, a whole number.
        ceiling: greatest share of each, a whole number, such as the entries that a layer holds; None sets no limit.

    Returns:
        Shares in the shape of the weights, int64.

    Raises:
        ValueError: a weight is negative, infinite or NaN; a floor lies above its ceiling; or the total lies below the
            sum of the floors or above that of the ceilings.
    """
    if not bool((weight.isfinite() & (weight >= 0)).all()):
        raise ValueError(f"weights must be finite and not negative, got {weight.tolist()}")
    weights = [Fraction(one) for one in weight.double().flatten().tolist()]
    low = torch.as_tensor(floor).expand(weight.shape).flatten().tolist()
    high = torch.as_tensor(total if ceiling is None else ceiling).expand(weight.shape).flatten().tolist()
    if ceiling is not None and any(least > greatest for least, greatest in zip(low, high, strict=True)):
        raise ValueError(f"no floor may lie above its ceiling, got floors {low} and ceilings {high}")
    greatest_total = total if ceiling is None and weights else sum(high)
    if not sum(low) <= total <= greatest_total:
        raise ValueError(f"total must be in {sum(low)}..{greatest_total}, what the bounds add up to, got {total}")
    shares = _bounded(weights, total, low, high)
    whole = [share.numerator // share.denominator for share in shares]
    remainder = sorted(range(len(shares)), key=lambda part: whole[part] - shares[part])
    for part in remainder[: total - sum(whole)]:
        whole[part] += 1
    return torch.tensor(whole, dtype=torch.long, device=weight.device).reshape(weight.shape)


def _bounded(weights: list[Fraction], total: int, low: list[int], high: list[int]) -> list[Fraction]:
    """Shares in proportion to the weights within bounds, summing to the total."""
    shares, free, rest = [Fraction(0)] * len(weights), {*range(len(weights))}, Fraction(total)
    while free:
        weight = sum(weights[part] for part in free)
        for part in free:
            shares[part] = rest * weights[part] / weight if weight else rest / len(free)
        clipped = {part: min(max(shares[part], Fraction(low[part])), Fraction(high[part])) for part in free}
        excess = sum(clipped[part] - shares[part] for part in free)
        # Too much in all: only the lower bounds are sure to hold in the end; too little: only the upper ones.
        bound = {
            part
            for part in free
            if (clipped[part] > shares[part] and excess >= 0) or (clipped[part] < shares[part] and excess <= 0)
        }
        if not bound:
            break
        for part in bound:
            shares[part] = clipped[part]
            rest -= clipped[part]
        free -= bound
    return shares


def clipped_shares(weight_L: Tensor, mean_share: float, least: float = 0.01) -> Tensor:
    """The share of its entries that each layer keeps, (L,): clip(wₗ / Σw · mean · L, least, 1).

    VL-Cache weighs a layer by its density (1 − `attention_sparsity`), MEDA by the softmax over layers of its
    `attention_entropy`; both clip at 0.01. Clipping moves the mean of the shares; where it must hold, `apportion` the
    entries by the same weights.

    Args:
        weight_L: not negative, and not all 0.
        mean_share: share of all entries to keep, from 0 to 1.
        least: least share of a layer.

    Raises:
        ValueError: all weights are 0, or one is negative.
    """
    if not bool((weight_L >= 0).all()) or not bool(weight_L.any()):
        raise ValueError(f"weights must not be negative, nor all 0, got {weight_L.tolist()}")
    return (weight_L / weight_L.sum() * (mean_share * len(weight_L))).clamp(least, 1)


def pyramid_budgets(capacity: int, window: int, steepness: int, layers: int, length: int) -> list[int]:
    """Entries that each layer keeps besides the window, falling by equal steps: PyramidKV's schedule.

    With base = capacity − window, from 2 · base − base // steepness in the first layer to about base // steepness in
    the last; the first keeps at most what there is, and the last then so much more. The step is rounded down, as in the
    released code, so that the sum may exceed layers · base by less than layers · (layers − 1) / 2.

    Args:
        capacity: entries that a layer keeps on average, the window among them.
        window: entries kept at the end.
        steepness: β, from 1 (all layers alike).
        layers: L.
        length: entries before eviction. Below `capacity` all are kept, and below 2 · base all layers keep base.

    Raises:
        ValueError: the window exceeds the capacity, or steepness or layers are less than 1.
    """
    if not 0 <= window <= capacity:
        raise ValueError(f"window must be in 0..{capacity} (the capacity), got {window}")
    if steepness < 1 or layers < 1:
        raise ValueError(f"steepness and layers must be at least 1, got {steepness} and {layers}")
    base, held = capacity - window, max(0, length - window)
    if length < capacity:
        return [held] * layers
    if length < 2 * base or layers == 1:
        return [base] * layers
    last = base // steepness
    first = 2 * base - last
    if first >= held:
        first, last = held, 2 * base - held
    step = (first - last) // (layers - 1)
    return [first - layer * step for layer in range(layers)]


def head_budgets(score_BGS: Tensor, base: int, floor_share: float) -> Tensor:
    """Entries (B, G) that each head keeps, by its hits among the best of all heads together: AdaKV's rule.

    The G · base best entries of a sequence are taken whichever head they are in; a head with n of them gets
    floor_share · base + (1 − floor_share) · n. AdaKV rounds each of these on its own; here largest remainders are
    rounded up, so that the heads of a sequence keep G · base entries exactly, and each at least ⌊floor_share · base⌋.

    Args:
        score_BGS: scores that can be compared between heads.
        base: entries that a head keeps on average, from 0 to S.
        floor_share: from 0 (the best of all heads) to 1 (all heads alike).

    Raises:
        ValueError: `base` or `floor_share` lies outside its range.
    """
    heads, entries = score_BGS.shape[1:]
    if not 0 <= base <= entries or not 0 <= floor_share <= 1:
        raise ValueError(f"base must be in 0..{entries}, floor_share in [0, 1], got {base} and {floor_share}")
    hits_BG = top_mask(score_BGS.flatten(1), heads * base).reshape(-1, heads, entries).sum(dim=2)
    share_BG = floor_share * base + (1 - floor_share) * hits_BG.double()
    least = int(floor_share * base)
    return torch.stack([apportion(share_G, heads * base, floor=least, ceiling=entries) for share_G in share_BG])
