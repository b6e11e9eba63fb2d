"""One number of the survey: what is printed, what comes out, and on what that rests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "holds if", "does not hold", "incomplete"]
"""Comes out as printed; needs a choice that is not stated; comes out under no choice; true but for terms left out."""


@dataclass(frozen=True)
class Table:
    """Figures of the engine, all of them numbers but for what names a row."""

    head: str
    """What the rows are."""
    columns: Mapping[str, str]
    """Heads with their units, and how `format` shows the numbers below."""
    rows: Mapping[str, Sequence[float]]
    """Numbers by row, as many as there are columns."""

    def at(self, row: str, column: str) -> float:
        """One of the numbers."""
        return self.rows[row][list(self.columns).index(column)]

    @property
    def texts(self) -> list[list[str]]:
        """The rows as text, each with its name first."""
        digits = self.columns.values()
        return [
            [name, *(format(number, form) for number, form in zip(numbers, digits, strict=True))]
            for name, numbers in self.rows.items()
        ]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A number that the survey prints, held against the engine."""

    number: int
    """Its place in the list."""
    where: str
    """Where it is printed."""
    title: str
    """What it is about."""
    printed: str
    """What is claimed."""
    verdict: Verdict
    ours: str
    """What the engine gives, in a line."""
    rests_on: str
    """The assumptions under which it comes out, or why it does not."""
    arithmetic: Sequence[str]
    """How ours comes about, a paragraph each."""
    tables: Sequence[Table] = ()
    """The figures behind it."""


def listed(numbers: Sequence[float]) -> str:
    """Numbers with one digit, as a sentence lists them."""
    shown = [f"{number:.1f}" for number in numbers]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
