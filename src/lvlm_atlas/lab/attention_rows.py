"""Rows of causal attention maps: how many scores the longest of them hold."""

from __future__ import annotations

from collections.abc import Sequence


def longest_rows(rows: float, tokens: Sequence[float]) -> float:
    """Scores in the longest `rows` rows of the causal attention maps of layers with so many tokens, for one head.

    A part of a row is that part of the next one.
    """
    if part := rows % 1:
        whole = longest_rows(rows - part, tokens)
        return whole + part * (longest_rows(rows - part + 1, tokens) - whole)
    lengths = [int(length) for length in tokens]
    wanted = min(int(rows), sum(lengths))
    if wanted <= 0:
        return 0
    # The shortest row among them: the largest length that so many rows reach.
    low, high = 1, max(lengths)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(max(0, length - middle + 1) for length in lengths) >= wanted:
            low = middle
        else:
            high = middle - 1
    longer = [length for length in lengths if length > low]
    scores = sum(length * (length + 1) - low * (low + 1) for length in longer) // 2
    return scores + (wanted - sum(length - low for length in longer)) * low
