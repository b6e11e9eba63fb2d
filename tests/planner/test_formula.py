"""A formula as a function gives what the expression gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.planner.formula import formula
from lvlm_atlas.schema.expression import FUNCTIONS, evaluate

NAMES = {"N": 4096, "N_v": 300.5, "l": 3, "flag": True, "zero": 0}

leaves = st.sampled_from([*NAMES, "0", "1", "2.5", "7", "10**3"])


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    )
    compared = st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner, inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]} < {parts[3]})"
    )
    chosen = st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} if {parts[1]} else {parts[2]})")
    joined = st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join).map("({})".format)
    one = st.tuples(st.sampled_from(["-", "not "]), inner).map(lambda parts: f"({parts[0]}{parts[1]})")
    called = st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})")
    rounded = st.tuples(st.sampled_from(sorted({*FUNCTIONS} - {"max", "min"})), inner).map(lambda p: f"{p[0]}({p[1]})")
    return st.one_of(binary, compared, chosen, joined, one, called, rounded)


@given(st.recursive(leaves, _nested, max_leaves=8).filter(lambda text: len(text) <= 240))
def test_a_formula_gives_what_evaluating_its_text_gives(text: str) -> None:
    try:
        told: float | None = evaluate(text, NAMES)
    except ValueError:
        told = None
    try:
        got: float | None = formula(text)(NAMES)
    except ValueError:
        got = None
    assert got == told
    assert type(got) is type(told)


def test_a_formula_that_fails_says_which_it_is() -> None:
    with pytest.raises(ValueError, match=r"'N / zero'.*division by zero"):
        formula("N / zero")(NAMES)
    with pytest.raises(ValueError, match="not a finite number"):
        formula("1e300 * 1e300 * N")(NAMES)


def test_a_formula_names_what_it_uses() -> None:
    assert formula("max(N, 2) if flag else l").names == {"N", "flag", "l"}
