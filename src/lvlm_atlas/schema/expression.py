"""Arithmetic over parameters and symbols, as entries write it: parsed, never `eval`-ed as Python."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from simpleeval import DEFAULT_OPERATORS, EvalWithCompoundTypes, InvalidExpression

FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "int": int,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,  # half to even, as Python and torch round
}
"""What a formula may call."""

MAX_LENGTH = 240
_ALLOWED = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.UnaryOp, ast.USub, ast.Not, ast.IfExp, ast.BoolOp, ast.And, ast.Or,
    ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip


def _power(base: float, exponent: float) -> float:
    """`base ** exponent`, where it fits a float: integers would grow for minutes first."""
    as_float: float = float(base) ** float(exponent)
    exact: float = base**exponent if isinstance(base, int) and isinstance(exponent, int) else as_float
    return exact


_OPERATORS = {**DEFAULT_OPERATORS, ast.Pow: _power}


@lru_cache(maxsize=4096)
def names_in(expression: str) -> frozenset[str]:
    """The names an expression uses, functions left out.

    Raises:
        ValueError: it is not an arithmetic expression; the message says why.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"is not an arithmetic expression ({type(error).__name__})") from None
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = set()
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise ValueError(f"may not use {type(node).__name__}; allowed are + - * / // % **, comparisons, if-else")
        if isinstance(node, ast.Constant) and (isinstance(node.value, bool) or not isinstance(node.value, int | float)):
            raise ValueError(f"may hold numbers only, got {node.value!r}")
        if isinstance(node, ast.Call) and (
            not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords
        ):
            raise ValueError(f"may call only {', '.join(sorted(FUNCTIONS))}, with plain arguments")
        if isinstance(node, ast.Name) and id(node) not in called:
            names.add(node.id)
    return frozenset(names)


def evaluate(amount: float | str, names: Mapping[str, Any]) -> float:
    """Value of an amount under the given names.

    Raises:
        ValueError: a name is missing, or the arithmetic fails (division by zero, too large).
    """
    if not isinstance(amount, str):
        return amount
    missing = sorted(names_in(amount) - set(names))
    if missing:
        raise ValueError(f"{amount!r} needs {', '.join(missing)}")
    try:
        value: float = EvalWithCompoundTypes(_OPERATORS, dict(FUNCTIONS), dict(names)).eval(amount.strip())
        finite = isinstance(value, int | float) and math.isfinite(value)
    except (InvalidExpression, ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"{amount!r}: {error}") from None
    if isinstance(value, bool):
        return int(value)
    if not finite:
        raise ValueError(f"{amount!r} gives {value!r}, not a finite number")
    return value if isinstance(value, int) else float(value)


def _check(value: object) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is neither a number nor an expression over parameters and symbols")
    if isinstance(value, str):
        names_in(value)
    elif not math.isfinite(value):
        raise ValueError("is not finite")
    return value


Amount = Annotated[
    int | float | str,
    PlainValidator(_check),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string"}],
            "description": "A number, or an arithmetic expression over parameters and symbols.",
        }
    ),
]
"""A number, or an arithmetic expression over the entry's parameters and the taxonomy's symbols."""
