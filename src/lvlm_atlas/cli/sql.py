"""Prints what a SQL query finds."""

from __future__ import annotations

import atexit
import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import cell, print_rows
from lvlm_atlas.cli.terminal import Column, Table, line_width
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.sweep.runner import need

DEFAULT = Path("results")


def run_sql(sql: str, data: Path | None, root: Path | None, listing: Listing) -> int:
    """Answer and print; returns how many rows there are.

    Raises:
        AtlasError: the extra is missing, the query is wrong, or there are no results.
    """
    for module in ("pyarrow", "duckdb"):
        need(module, "sql needs")
    # The command line exits without a last collection, of which DuckDB's bindings complain as of a leak.
    atexit.register(gc.unfreeze)
    from lvlm_atlas.sweep.query import ask, parts_there

    named, data = data, data or (DEFAULT if any(DEFAULT.glob("part-*.parquet")) else None)
    try:
        answer = ask(sql, data, root=root)
    except AtlasError as error:
        if named is None and "Table with name sweep does not exist" in str(error):
            raise AtlasError(
                f"there are no results at {DEFAULT}/; name them with --data, or make some: lvlm-atlas sweep"
            ) from None
        raise
    people = listing in (Listing.table, Listing.md, Listing.latex)
    rows = [_row(answer.columns, values, people=people) for values in answer.rows]
    if listing is Listing.ids:
        rows = [{"id": row[answer.columns[0]]} for row in rows]
    columns = fitting(rows, answer.columns) if listing is Listing.table else answer.columns
    print_rows(rows, columns, listing)
    if data and (there := parts_there(data)) and there[0] < there[1]:
        typer.echo(f"the sweep is not whole: {there[0]} of {there[1]} parts are there; run it again to go on", err=True)
    if more := len(answer.columns) - len(columns):
        typer.echo(f"… {more} more columns: --format csv, or a wider terminal")
    return len(rows)


def fitting(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Sequence[str]:
    """The first columns, as many as a line of the terminal holds unbroken, and at least two."""
    width = line_width()
    for count in range(len(columns), 2, -1):
        table = Table([Column(name) for name in columns[:count]])
        table.rows += [[cell(row[name]) for name in columns[:count]] for row in rows]
        if table.natural_width() <= width:
            return columns[:count]
    return columns[:2]


def _row(columns: Sequence[str], values: Sequence[Any], *, people: bool) -> dict[str, Any]:
    return {name: _plain(value, people=people) for name, value in zip(columns, values, strict=True)}


def _plain(value: Any, *, people: bool) -> Any:
    """A value as JSON can say it; for people, numbers with the digits that a prediction deserves."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each, people=people) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each, people=people) for key, each in value.items()}
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if not math.isfinite(number):
        return None
    return f"{number:.4g}" if people else number
