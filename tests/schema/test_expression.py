"""Expressions compute what they say, and whatever they say they end soon, with a number or a ValueError."""

import math
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.schema.expression import FUNCTIONS, evaluate, names_in


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


HOSTILE = [
    "round(1, -9999999)", "round(1, 9999999)", "round(1.5, 2.5)", "round(1e308, -300)",
    "2 ** 1023 * 2 ** 1023 * 2 ** 1023",
    "(2 ** 1023) ** 2", "(0 - 2) ** 0.5 < 1", "sizes * 1000000000", "1000000000 * sizes", "sizes * sizes",
    "at(sizes, 10 ** 300)", "at(sizes, -1e308)", "at(N, 0)", "count(N, 1)", "sum(N)", "length(N)", "max()", "min(1)",
    "int(sizes)", "log2(0)", "log2(2 ** 1023 * 2 ** 1023)", "abs(sizes)", "ceil(1e308 * 10)", "floor(sizes)",
    "-" * 390 + "N", "(" * 190 + "N" + ")" * 190, "not " * 99 + "N", "N" + " ** N" * 80, "N" + " if N else N" * 30,
    "max(" * 80 + "N" + ")" * 80, "9" * 399, "1e-320 ** 9", "0 ** (0 - 1)", "N % 0", "N // 0", "sizes < N",
    "sizes + sizes",
]  # fmt: skip


@pytest.mark.parametrize("expression", HOSTILE)
def test_whatever_is_tried_ends_at_once(expression: str) -> None:
    start = time.process_time()
    with suppress(ValueError):
        assert math.isfinite(evaluate(expression, {"N": 10, "sizes": (1, 2, 3)}))
    assert time.process_time() - start < 0.5  # 50 ms on a quiet machine


_ATOMS = st.sampled_from(["N", "sizes", "0", "1", "9", "0.5", "1e308", "10 ** 300", "(0 - 1)"])
_NESTED = st.recursive(
    _ATOMS,
    lambda part: st.one_of(
        st.builds("({} {} {})".format, part, st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<", "and"]), part),
        st.builds("{}({})".format, st.sampled_from(sorted(FUNCTIONS)), part),
        st.builds("{}({}, {})".format, st.sampled_from(sorted(FUNCTIONS)), part, part),
        st.builds("({} if {} else {})".format, part, part, part),
    ),
    max_leaves=12,
)


@settings(max_examples=1000)
@given(_NESTED)
def test_any_formula_gives_a_finite_number_or_a_value_error_soon(text: str) -> None:
    start = time.process_time()
    with suppress(ValueError):
        assert math.isfinite(evaluate(text, {"N": 10, "sizes": (1, 2, 3)}))
    assert time.process_time() - start < 0.5


@given(st.text(alphabet="0123456789N+-*/%().e <>=ifelsandot_", max_size=40))
def test_any_text_gives_a_finite_number_or_a_value_error(text: str) -> None:
    try:
        value = evaluate(text, {"N": 10})
    except ValueError:
        return
    assert math.isfinite(value)
