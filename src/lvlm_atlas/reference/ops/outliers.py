"""Outliers by the rule of interquartile ranges, which say how many tokens stand out."""

from __future__ import annotations

from torch import Tensor


def outlier_ratio(value: Tensor, factor: float = 1.5) -> float:
    """Share of all values that lie above Q3 + `factor` · (Q3 − Q1); quartiles are interpolated linearly, in float64.

    The host waits for the share.

    Args:
        value: numbers of any shape.
        factor: interquartile ranges from the upper quartile to the fence.
    """
    value = value.flatten().double()
    low, high = value.quantile(0.25), value.quantile(0.75)
    return float((value > high + factor * (high - low)).sum()) / len(value)
