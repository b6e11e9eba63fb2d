"""Prints rows in the format asked for: a table for people, the rest for programs."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from lvlm_atlas.cli.options import Listing

Row = Mapping[str, Any]
"""A row: values by column. A row has an `id`."""


def show(renderable: RenderableType) -> None:
    """Print for people: at the terminal's width, or, where output is no terminal, plain and without trailing blanks."""
    if sys.stdout.isatty():
        _console(sys.stdout, None).print(renderable)
        return
    text = io.StringIO()
    _console(text, None if "COLUMNS" in os.environ else 100).print(renderable)
    typer.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def _console(file: TextIO, width: int | None) -> Console:
    return Console(file=file, soft_wrap=False, highlight=False, markup=False, emoji=False, width=width)


def print_rows(rows: Sequence[Row], columns: Sequence[str], listing: Listing) -> None:
    """Print the rows. `columns` are those a table shows; JSON formats print every key."""
    match listing:
        case Listing.table:
            _table(rows, columns)
        case Listing.json:
            typer.echo(json.dumps([dict(row) for row in rows], indent=2, ensure_ascii=False))
        case Listing.jsonl:
            for row in rows:
                typer.echo(json.dumps(dict(row), ensure_ascii=False))
        case Listing.csv:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(row[name]) for name in columns] for row in rows)
            typer.echo(text.getvalue(), nl=False)
        case Listing.md:
            typer.echo("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
            for row in rows:
                cells = (_cell(row[name]).replace("|", "\\|").replace("\n", " ") for name in columns)
                typer.echo("| " + " | ".join(cells) + " |")
        case Listing.ids:
            for row in rows:
                typer.echo(row["id"])


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    for name in columns:
        table.add_column(
            name,
            overflow="fold",
            no_wrap=name in {"id", "entry"} and len(columns) > 3,
            style="bold" if name == columns[0] else "",
        )
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    show(table)


def _cell(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    if value is None:
        return ""
    return str(value)
