"""Numbers are short, have their unit, and never read as another number."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.roofline import units


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1, "1"), (1196, "1,196"), (989.4, "989"), (4.8, "4.8"), (0.0123456, "0.0123"), (119600, "119,600")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, shown: str) -> None:
    assert units.number(value) == shown


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.seconds(0.6296), "630 ms"), (units.seconds(2.5e-6), "2.5 µs"), (units.seconds(0), "0 s"),
        (units.seconds(0.99999), "1 s"), (units.size(1.379e9), "1.38 GB"), (units.size(57344), "57.3 kB"),
        (units.bandwidth(4.8e12), "4.8 TB/s"), (units.rate(989.4e12), "989 TFLOP/s"), (units.flop(5e12), "5 TFLOP"),
        (units.parameters(8.29e9), "8.29 B"), (units.share(0.088), "8.8 %"), (units.share(0.712), "71 %"),
        (units.share(0), "0 %"),
    ],
)  # fmt: skip
def test_units_fit(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(2, 1, "2.00 ×"), (1, 2, "0.50 ×"), (1, 1.001, "no change"), (0, 0, "no change"), (1, 0, "none left"),
     (30, 1, "30 ×")],
)  # fmt: skip
def test_a_gain_says_how_many_times_less_is_left(before: float, after: float, said: str) -> None:
    assert units.gain(before, after) == said


@given(st.floats(1e-9, 1e9))
def test_a_time_can_be_read_back(value: float) -> None:
    shown = units.seconds(value)
    number, unit = re.fullmatch(r"([\d,.]+) (\w+)", shown).groups()  # type: ignore[union-attr]
    read = float(number.replace(",", "")) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]
    assert read == pytest.approx(value, rel=6e-3)
