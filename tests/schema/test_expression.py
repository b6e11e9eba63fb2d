"""Expressions compute what they say, and whatever they say they end soon, with a number or a ValueError."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.schema.expression import evaluate, names_in


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * N + 1", 21), ("ceil(N / 3)", 4), ("round(2.5)", 2), ("min(N, 4) if N > 3 else 0", 4), ("2 ** 10", 1024),
        ("2 ** -1", 0.5), ("N ** 0.5", math.sqrt(10)), ("not N", 0), ("N == 10", 1), (" N // 3", 3), ("-N % 3", 2),
    ],
)  # fmt: skip
def test_arithmetic_is_that_of_python(expression: str, value: float) -> None:
    assert evaluate(expression, {"N": 10}) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "().__class__",
        "N.real",
        "[1]",
        "(x := 1)",
        "lambda: 1",
        "'a'",
        "f'{1}'",
        "eval(1)",
        "1 << 9",
    ],
)
def test_what_is_not_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"may|is not"):
        names_in(expression)


@pytest.mark.parametrize(
    "expression",
    ["1 / 0", "10 ** 400", "9 ** 9 ** 9", "3999999 ** 3999999", "(0 - 8) ** 0.5", "1e308 * 10", "int(1e308 * 10)", "M"],
)
def test_what_gives_no_finite_number_is_told_at_once(expression: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"\S"):
        evaluate(expression, {"N": 10})
    assert time.perf_counter() - start < 1


@given(st.text(alphabet="0123456789N+-*/%().e <>=ifelsandot_", max_size=40))
def test_any_text_gives_a_finite_number_or_a_value_error(text: str) -> None:
    try:
        value = evaluate(text, {"N": 10})
    except ValueError:
        return
    assert math.isfinite(value)
