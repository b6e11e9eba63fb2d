"""Plain text for the commands that predict, which must start faster than rich is imported."""

from __future__ import annotations

import csv
import io
import shutil
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

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


def narrow(columns: Sequence[str], rows: Rows, *, left: Collection[str], dropped: Sequence[str]) -> str:
    """A table that goes without some columns, those in `dropped` in their order, where it has no room for all."""
    rows, kept = list(rows), list(columns)
    for name in (None, *dropped):
        kept = [each for each in kept if each != name]
        places = [columns.index(each) for each in kept]
        text = table(kept, [[row[at] for at in places] for row in rows], left=left)
        if max(map(len, text.splitlines())) <= width():
            break
    return text


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def wrapped(text: str, bullet: str = "") -> str:
    """A paragraph at the terminal's width; ids are not broken at their hyphens."""
    indent = " " * len(bullet)
    return textwrap.fill(text, width(), initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False)
