"""A formula gives what Python gives for its text, but for powers that would grow for minutes."""

from __future__ import annotations

import ast
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.schema.expression import FUNCTIONS, formula

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
    rounded = st.tuples(
        st.sampled_from(sorted({*FUNCTIONS} - {"max", "min", "at", "count", "length", "sum"})), inner
    ).map(lambda p: f"{p[0]}({p[1]})")
    return st.one_of(binary, compared, chosen, joined, one, called, rounded)


class _Bounded(ast.NodeTransformer):
    """Calls `power` in place of `**`, so that Python's own integers do not grow for minutes."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Pow):
            return node
        return ast.Call(func=ast.Name(id="power", ctx=ast.Load()), args=[node.left, node.right], keywords=[])


def _power(base: Any, exponent: Any) -> Any:
    if base and exponent * math.log2(abs(base)) >= 1024:
        raise OverflowError
    return base**exponent


def of_python(text: str) -> float | None:
    """What Python makes of it; None where that is no finite number."""
    tree = ast.fix_missing_locations(_Bounded().visit(ast.parse(text, mode="eval")))
    try:
        value = eval(compile(tree, "formula", "eval"), {"__builtins__": {}}, {**FUNCTIONS, **NAMES, "power": _power})  # noqa: S307
        if not math.isfinite(value):
            return None
    except (ArithmeticError, TypeError, ValueError):
        return None
    return int(value) if isinstance(value, bool) else value


@given(st.recursive(leaves, _nested, max_leaves=8).filter(lambda text: len(text) <= 240))
def test_a_formula_gives_what_python_gives(text: str) -> None:
    try:
        got: float | None = formula(text)(NAMES)
    except ValueError:
        got = None
    told = of_python(text)
    assert got == (None if told is None else pytest.approx(told, rel=1e-12))
    assert type(got) is type(told)


def test_a_formula_that_fails_says_which_it_is() -> None:
    with pytest.raises(ValueError, match=r"'N / zero'.*division by zero"):
        formula("N / zero")(NAMES)
    with pytest.raises(ValueError, match="not a finite number"):
        formula("1e300 * 1e300 * N")(NAMES)


def test_a_formula_names_what_it_uses() -> None:
    assert formula("max(N, 2) if flag else l").names == {"N", "flag", "l"}
