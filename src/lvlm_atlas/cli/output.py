"""Prints rows in the format asked for: a table for people, the rest for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.terminal import Column, Table, show

Row = Mapping[str, Any]
"""A row: values by column. A row has an `id`."""

UNBROKEN = ("stage",)
"""Columns, beside ids, whose text a table does not break."""


def print_rows(rows: Sequence[Row], columns: Sequence[str], listing: Listing, *, cut: Sequence[str] = ()) -> None:
    """Print the rows. `columns` are those a table shows, cut to a line in `cut`; JSON formats print every key."""
    match listing:
        case Listing.table:
            _table(rows, columns, cut)
        case Listing.json:
            typer.echo(as_json([dict(row) for row in rows]))
        case Listing.jsonl:
            for row in rows:
                typer.echo(as_json(dict(row), indent=None))
        case Listing.csv:
            import csv
            import io

            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([cell(row[name]) for name in columns] for row in rows)
            typer.echo(text.getvalue(), nl=False)
        case Listing.md:
            typer.echo("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
            for row in rows:
                cells = (cell(row[name]).replace("|", "\\|").replace("\n", " ") for name in columns)
                typer.echo("| " + " | ".join(cells) + " |")
        case Listing.latex:
            from lvlm_atlas.cli.latex import latex

            typer.echo(latex(columns, [[cell(row[name]) for name in columns] for row in rows]))
        case Listing.ids:
            for row in rows:
                typer.echo(row["id"])


def _table(rows: Sequence[Row], columns: Sequence[str], cut: Sequence[str]) -> None:
    table = Table(
        [
            Column(
                name,
                style="bold" if name == columns[0] else "",
                wrap=name not in {"id", "entry", *UNBROKEN} or len(columns) <= 3,
                cut=name in cut,
            )
            for name in columns
        ]
    )
    table.rows += [[cell(row[name]) for name in columns] for row in rows]
    show(table)


def cell(value: object) -> str:
    """A value as a table shows it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
