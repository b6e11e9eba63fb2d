"""Tables as plain text, for commands that must start faster than rich is imported."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence

Rows = Iterable[Sequence[str]]


def width() -> int:
    """Columns to fill: those of the terminal, 100 at most, since longer lines read badly."""
    return min(100, shutil.get_terminal_size((80, 24)).columns)


def table(columns: Sequence[str], rows: Rows, *, left: Collection[str] = ()) -> str:
    """A table. Columns stand right, but for those in `left`; none is cut, since numbers must not be."""
    lines = [columns, *rows]
    wide = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    shown = [
        "  ".join(
            cell.ljust(size) if name in left else cell.rjust(size)
            for cell, size, name in zip(line, wide, columns, strict=True)
        ).rstrip()
        for line in lines
    ]
    rule = "─" * (sum(wide) + 2 * (len(columns) - 1))
    return "\n".join([shown[0], rule, *shown[1:]])


def markdown(columns: Sequence[str], rows: Rows) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *([cell.strip() for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
