"""Arithmetic over parameters and symbols, as entries write it: parsed, never `eval`-ed as Python."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from typing_extensions import TypeAliasType

Names = Mapping[str, Any]
"""What the names of an expression stand for."""
_Part = Callable[[Names], Any]

MOST_DIGITS = 15
"""Decimal places that numbers can be rounded to, before and behind the point: those that a float tells apart."""


def _round(number: float, digits: int = 0) -> float:
    """`round`, half to even as in Python and torch; at places far before the point Python would count for hours."""
    if not isinstance(digits, int) or abs(digits) > MOST_DIGITS:
        raise ValueError(f"round takes whole decimal places from -{MOST_DIGITS} to {MOST_DIGITS}, got {digits}")
    return round(number, digits) if digits else round(number)


FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "abs": abs,
    "at": lambda numbers, index: numbers[int(index)],
    "ceil": math.ceil,
    "count": lambda numbers, most: sum(number <= most for number in numbers),
    "floor": math.floor,
    "int": int,
    "length": len,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": _round,
    "sum": sum,
}
"""What a formula may call. Of a list parameter: `at(list, index)`, `count(list, most)` is how many of its numbers are
at most that, `length(list)`, `sum(list)`."""

MAX_LENGTH = 400
_ALLOWED = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.UnaryOp, ast.USub, ast.Not, ast.IfExp, ast.BoolOp, ast.And, ast.Or,
    ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip


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


def _power(base: Any, exponent: Any) -> Any:
    """`base ** exponent`, where it fits a float: integers would grow for minutes first."""
    if base < 0 and exponent != int(exponent):
        raise ValueError(f"{base} has no power {exponent}: of a negative number take whole powers only")
    as_float = float(base) ** float(exponent)
    return base**exponent if isinstance(base, int) and isinstance(exponent, int) else as_float


def _product(one: Any, two: Any) -> Any:
    """`one * two` of numbers: a list times a number would be a longer list."""
    if isinstance(one, tuple | list) or isinstance(two, tuple | list):
        raise TypeError("a list stands where a number is needed")
    return one * two


_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: _product, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


class Formula:
    """An expression as a function: walked once, then called for every layer of every stack."""

    __slots__ = ("_part", "names", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = names_in(text)
        """The names it uses."""
        try:
            self._part = _walked(ast.parse(text.strip(), mode="eval").body)
        except RecursionError:
            raise ValueError("is nested too deeply") from None

    def __call__(self, names: Names) -> float:
        """Its value where the names stand for these.

        Raises:
            ValueError: a name is missing, or the arithmetic fails: division by zero, or too large.
        """
        try:
            value = self._part(names)
            finite = math.isfinite(value)
        except KeyError:
            raise ValueError(f"{self.text!r} needs {', '.join(sorted(self.names - set(names)))}") from None
        except RecursionError:
            raise ValueError(f"{self.text!r} is nested too deeply") from None
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{self.text!r}: {error}") from None
        if not finite:
            raise ValueError(f"{self.text!r} gives {value!r}, not a finite number")
        return int(value) if isinstance(value, bool) else value


@lru_cache(maxsize=4096)
def formula(text: str) -> Formula:
    """The function of an expression, made once.

    Raises:
        ValueError: it is not an arithmetic expression; the message says why.
    """
    return Formula(text)


def _walked(node: ast.expr) -> _Part:
    """The function of one node; `names_in` has let through only those named here."""
    match node:
        case ast.Constant(value=value):
            return lambda _: value
        case ast.Name(id=name):
            return operator.itemgetter(name)
        case ast.BinOp(left=left, op=op, right=right):
            one, two, join = _walked(left), _walked(right), _BINARY[type(op)]
            return lambda names: join(one(names), two(names))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            part = _walked(operand)
            return lambda names: -part(names)
        case ast.UnaryOp(operand=operand):
            part = _walked(operand)
            return lambda names: not part(names)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            asked, then, other = _walked(test), _walked(body), _walked(orelse)
            return lambda names: then(names) if asked(names) else other(names)
        case ast.BoolOp(op=op, values=values):
            parts = [_walked(value) for value in values]
            every = isinstance(op, ast.And)
            return lambda names: _joined(parts, names, every=every)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            first = _walked(left)
            rest = [(_COMPARE[type(op)], _walked(value)) for op, value in zip(ops, comparators, strict=True)]
            return lambda names: _compared(first(names), rest, names)
        case ast.Call(func=ast.Name(id=name), args=args):
            function, given = FUNCTIONS[name], [_walked(arg) for arg in args]
            return lambda names: function(*[part(names) for part in given])
    raise AssertionError(ast.dump(node))


def _joined(parts: list[_Part], names: Names, *, every: bool) -> Any:
    found: Any = every
    for part in parts:
        found = part(names)
        if bool(found) is not every:
            return found
    return found


def _compared(left: Any, rest: list[tuple[Callable[[Any, Any], bool], _Part]], names: Names) -> bool:
    for compare, part in rest:
        right = part(names)
        if not compare(left, right):
            return False
        left = right
    return True


def evaluate(amount: float | str, names: Names) -> float:
    """Value of an amount under the given names.

    Raises:
        ValueError: as of `formula` and `Formula`.
    """
    return formula(amount)(names) if isinstance(amount, str) else amount


def _check(value: object) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is neither a number nor an expression over parameters and symbols")
    if isinstance(value, str):
        names_in(value)
    elif not math.isfinite(value):
        raise ValueError("is not finite")
    return value


Amount = TypeAliasType(
    "Amount",
    Annotated[
        int | float | str,
        BeforeValidator(_check),
        WithJsonSchema(
            {
                "anyOf": [{"type": "number"}, {"type": "string"}],
                "description": "A number, or an arithmetic expression over parameters and symbols.",
            }
        ),
    ],
)
"""A number, or an arithmetic expression over the entry's parameters and the taxonomy's symbols.

A named type, so that the JSON Schema for editors defines it once. It is written without calls into Python: pydantic
would lose a Ctrl-C that comes in one.
"""
