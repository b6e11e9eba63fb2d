"""What a query finds, and why each row is there, or why none is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lvlm_atlas.schema.technique import Technique

if TYPE_CHECKING:
    from lvlm_atlas.graph.edges import Edge


@dataclass(frozen=True)
class Reason:
    """One condition that a technique meets, and what meets it."""

    condition: str
    """The part of the query."""
    found: str
    """The value, text or statement that meets it."""
    edges: tuple[Edge, ...] = ()
    """The edges it rests on: one, or a path of them."""


@dataclass(frozen=True)
class Row:
    """One technique of an answer."""

    technique: Technique
    because: tuple[Reason, ...]
    """Why it is in the answer, condition by condition."""


@dataclass(frozen=True)
class Answer:
    """The techniques that a query finds, ids ascending."""

    query: str
    rows: tuple[Row, ...]
    why_empty: str = ""
    """The condition that emptied the answer; empty where there are rows."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The techniques' ids."""
        return tuple(row.technique.id for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)
