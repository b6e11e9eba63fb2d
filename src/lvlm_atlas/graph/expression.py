"""A query as a tree. `str` of a tree is a query that parses to the same tree."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lvlm_atlas.fault import AtlasError

_PLAIN = re.compile(r"[^\s()\":<>=,\-][^\s()\":<>=,]*")
_OPERATORS = frozenset({"and", "or", "not"})


class QueryError(AtlasError):
    """A query that cannot be answered as written: what, where, and what was perhaps meant."""

    def __init__(self, text: str, column: int, problem: str) -> None:
        self.text = text
        self.column = column
        """Where the trouble begins, from 1."""
        self.problem = problem
        line = "".join(ch if ch.isprintable() else " " for ch in text)
        super().__init__(f"{problem}\n  {line}\n  {' ' * (column - 1)}^")


@dataclass(frozen=True)
class Word:
    """A technique's id or name, or text to look for."""

    text: str
    column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return quoted(self.text)


@dataclass(frozen=True)
class Condition:
    """A field compared with a value."""

    name: str
    comparison: str
    value: str
    column: int = field(default=1, compare=False)
    value_column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{quoted(self.value)}"


@dataclass(frozen=True)
class Call:
    """A relation to whatever a query finds."""

    name: str
    of: Query
    extra: tuple[Word, ...] = ()
    """What follows the query: for `within` the number of steps, and a kind."""
    column: int = field(default=1, compare=False)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, (self.of, *self.extra)))})"


@dataclass(frozen=True)
class Not:
    """Everything that a query does not find."""

    of: Query

    def __str__(self) -> str:
        return f"not {_inner(self.of)}"


@dataclass(frozen=True)
class And:
    """What all parts find."""

    parts: tuple[Query, ...]

    def __str__(self) -> str:
        return " and ".join(map(_inner, self.parts))


@dataclass(frozen=True)
class Or:
    """What any part finds."""

    parts: tuple[Query, ...]

    def __str__(self) -> str:
        return " or ".join(map(_inner, self.parts))


Query = Word | Condition | Call | Not | And | Or


def quoted(text: str) -> str:
    """The text as a query writes it, in quotes where it needs them."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _OPERATORS else f'"{text}"'


def depth(query: Query) -> int:
    """How many levels of operators and calls lie in each other."""
    if isinstance(query, Word | Condition):
        return 1
    parts = query.parts if isinstance(query, And | Or) else (query.of,)
    return 1 + max(map(depth, parts))


def _inner(query: Query) -> str:
    return f"({query})" if isinstance(query, And | Or) else str(query)
