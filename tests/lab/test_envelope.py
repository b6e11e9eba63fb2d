"""Bounds of a mean of function values."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.lab.envelope import envelope


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=7), st.integers(1, 4))
def test_every_mean_of_values_lies_between_the_envelopes_and_some_reach_them(values: list[int], heads: int) -> None:
    seen: dict[float, list[float]] = {}
    for places in combinations_with_replacement(range(len(values)), heads):
        seen.setdefault(sum(places) / heads, []).append(sum(values[place] for place in places) / heads)
    for mean, means in seen.items():
        low, high = (envelope(values, mean, upper=upper) for upper in (False, True))
        assert low - 1e-9 <= min(means)
        assert max(means) <= high + 1e-9


def test_the_envelopes_of_a_sawtooth_by_hand() -> None:
    saw = [0, 3, 1, 4, 2]
    assert envelope(saw, 2, upper=False) == 1
    assert envelope(saw, 2, upper=True) == 3.5
    assert envelope(saw, 0, upper=True) == 0
    assert envelope(saw, 4, upper=False) == 2
    assert envelope(saw, 1, upper=False) == pytest.approx(0.5)
