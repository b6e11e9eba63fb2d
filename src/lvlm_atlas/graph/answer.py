"""What a query finds, and why each row is there, or why none is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lvlm_atlas.rows import frame, markdown
from lvlm_atlas.schema.technique import Technique

if TYPE_CHECKING:
    from lvlm_atlas.graph.edges import Edge


class Reason(NamedTuple):
    """One condition that a technique meets, and what meets it."""

    condition: str
    """The part of the query."""
    found: str
    """The value, text or statement that meets it."""
    edges: tuple[Edge, ...] = ()
    """The edges it rests on: one, or a path of them."""


class Row(NamedTuple):
    """One technique of an answer."""

    technique: Technique
    because: tuple[Reason, ...]
    """Why it is in the answer, condition by condition."""


@dataclass(frozen=True, repr=False)
class Answer:
    """The techniques that a query finds, ids ascending. Iterating gives the techniques."""

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

    def __iter__(self) -> Iterator[Technique]:
        return (row.technique for row in self.rows)

    def __getitem__(self, index: int) -> Technique:
        return self.rows[index].technique

    def __repr__(self) -> str:
        return f"<Answer to {self.query!r}: {', '.join(self.ids) or self.why_empty}>"

    def _repr_markdown_(self) -> str:
        return table_of(self)

    def records(self) -> list[dict[str, Any]]:
        """A record for each technique."""
        return records_of(self)

    def to_pandas(self) -> Any:
        """The records as a pandas frame.

        Raises:
            AtlasError: pandas is not installed.
        """
        return frame(self.records())


def records_of(techniques: Iterable[Technique]) -> list[dict[str, Any]]:
    """What tables show of techniques, a record each."""
    return [
        {
            "id": each.id, "name": each.name, "stage": each.stage, "family": each.family, "training": each.training,
            "query_aware": each.query_aware, "status": each.status, "summary": each.summary,
        }
        for each in techniques
    ]  # fmt: skip


def table_of(techniques: Iterable[Technique]) -> str:
    """A table of techniques in Markdown."""
    return markdown(
        ("id", "stage", "training", "summary"), [(t.id, t.stage, t.training, t.summary) for t in techniques]
    )
