"""Prints reported results in groups that can be compared, and writes them as a table for other tools."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import typer

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.cli.measured import COLUMNS as MEASURED
from lvlm_atlas.cli.measured import EVIDENCE, measured_rows
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.cli.terminal import Block, Column, Table, Text, show
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import replace_file
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.graph.result_words import baseline_of, conditions_of, kept_of, percent_of, setting_of, value_of
from lvlm_atlas.graph.results import ReportedResult, grouped, term_of
from lvlm_atlas.graph.results import comparable as comparable_results
from lvlm_atlas.schema.vocabulary import BenchmarkTerm

COLUMNS = tuple(field.name for field in fields(ReportedResult))
"""What files and programs get of a result."""
_SHOWN = ("technique", "measure", "model", "kept", "value", "baseline", "of baseline", "setting", "source")
"""What a table in Markdown or LaTeX shows."""


def list_results(
    atlas: KnowledgeBase,
    query: str | None,
    benchmark: str | None,
    metric: str | None,
    model: str | None,
    comparable: bool,
    out: Path | None,
    listing: Listing,
) -> None:
    """Print the results that are asked for, or write them to a file.

    Raises:
        AtlasError: a word is not known, or the file cannot be written.
        Exit: there are none; the reason is on standard error.
    """
    results = atlas.results(query, benchmark=benchmark, metric=metric, model=model)
    if comparable:
        results = comparable_results(results)
    whole = not (benchmark or metric or model or comparable or out) and listing is Listing.table
    measured = _measured(atlas, query) if whole else []
    if measured:
        show(*(_tables(atlas.atlas, results) if results else ()), *_measured_table(measured))
        return
    if not results:
        typer.echo("no source reports such a result of these techniques", err=True)
        raise typer.Exit(1)
    if out is None:
        print_results(atlas.atlas, results, listing)
    else:
        write_results(results, out)
        typer.echo(f"wrote {len(results)} results to {out}")


def list_measured(atlas: KnowledgeBase, query: str | None, listing: Listing) -> None:
    """Print what the lab measured of the techniques that a query finds.

    Raises:
        AtlasError: the query cannot be answered as written.
        Exit: nothing was measured of them; standard error says so.
    """
    rows = _measured(atlas, query)
    if not rows:
        typer.echo("the lab has measured nothing of these techniques; `lvlm-atlas lab run` makes curves", err=True)
        raise typer.Exit(1)
    if listing is Listing.table:
        show(*_measured_table(rows))
    else:
        print_rows(rows, ("evidence", *MEASURED), listing)


def _measured(atlas: KnowledgeBase, query: str | None) -> list[dict[str, Any]]:
    found = atlas.techniques if query is None else atlas.query(query).ids
    return [*measured_rows(atlas.atlas, frozenset(found))]


def _measured_table(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Settings of curves, and stacks, each in a table without the columns that only the other has."""
    parts: list[Block] = []
    for together, heading in ((False, "alone"), (True, "together, held against the sum of what each loses alone")):
        chosen = [row for row in rows if (row["departure"] is not None) is together]
        if not chosen:
            continue
        parts.append(Text(f"{EVIDENCE[0].upper()}{EVIDENCE[1:]}, {heading}", style="bold"))
        columns = [name for name in MEASURED if any(row[name] != "" for row in chosen)]
        table = Table([Column(name, wrap=name in ("stack", "off the sum"), right=name == "kept") for name in columns])
        table.rows += [tuple(str(row[name]) for name in columns) for row in chosen]
        parts.append(table)
    return parts


def print_results(atlas: Atlas, results: Sequence[ReportedResult], listing: Listing) -> None:
    """Print results; a table for people has a part for each group, and sources at the end."""
    match listing:
        case Listing.table:
            show(*_tables(atlas, results))
        case Listing.md | Listing.latex:
            print_rows([_shown(result) for result in results], _SHOWN, listing)
        case Listing.csv:
            print_rows([_flat(result) for result in results], COLUMNS, listing)
        case _:
            print_rows([{"id": result.technique, **asdict(result)} for result in results], COLUMNS, listing)


def write_results(results: Sequence[ReportedResult], out: Path) -> None:
    """Write results to a file, as CSV or Parquet by the ending of its name.

    Raises:
        AtlasError: another ending, a library is missing, or the file cannot be written.
    """
    if out.suffix not in _FORMATS:
        raise AtlasError(f"--out: {out} ends in neither .csv nor .parquet; rename it")
    replace_file(out, _FORMATS[out.suffix]([_flat(result) for result in results]))


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    from lvlm_atlas.sweep.runner import need

    need("pyarrow", "a Parquet file needs")
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"value", "baseline", "percent_of_baseline", "tokens_kept", "share_kept"}
    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])
    content = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), content)
    return bytes(content.getvalue())


_FORMATS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], bytes]] = {".csv": _csv, ".parquet": _parquet}


def _flat(result: ReportedResult) -> dict[str, Any]:
    """A result without nested values: the setting as commands take it."""
    return {**asdict(result), "setting": setting_of(result.setting)}


def _shown(result: ReportedResult) -> dict[str, str]:
    return {
        "technique": result.technique, "measure": result.measure, "model": result.model, "kept": kept_of(result),
        "value": value_of(result), "baseline": baseline_of(result), "of baseline": percent_of(result),
        "setting": conditions_of(result), "source": f"{result.paper}, {result.place}",
    }  # fmt: skip


def _tables(atlas: Atlas, results: Sequence[ReportedResult]) -> list[Block]:
    """A table for each group, and at the end the experiments that their rows refer to."""
    experiments: dict[str, int] = {}
    parts: list[Block] = []
    for group in grouped(results):
        first, data = group[0], {row.data for row in group}
        on = f", on {first.data}" if first.data and len(data) == 1 else ""
        parts += [Text.assemble((first.measure, "bold"), f": {_meaning(atlas, first)}"), Text(first.model + on)]
        parts.append(_table(group, experiments, with_data=len(data) > 1))
    listed = Table([Column(), Column()], head=False, gap=1)
    listed.rows += [(f"[{number}]", text) for text, number in experiments.items()]
    return [*parts, Text("Experiments", style="bold"), listed]


def _table(group: Sequence[ReportedResult], experiments: dict[str, int], *, with_data: bool) -> Table:
    """The rows of a group, without columns that would be empty; numbers are never broken over lines."""
    columns = {
        "technique": [row.technique for row in group], "kept": [*map(kept_of, group)], "value": [*map(value_of, group)],
        "baseline": [*map(baseline_of, group)],
        "of baseline": [percent_of(row) if row.unit != "% of baseline" else "" for row in group],
        "on": [row.data or "" for row in group if with_data],
        "": [f"[{experiments.setdefault(_experiment(row), len(experiments) + 1)}]" for row in group],
    }  # fmt: skip
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    numbers = {"kept", "value", "baseline", "of baseline"}
    table = Table([Column(name, wrap=name in ("technique", "on"), right=name in numbers) for name in columns])
    table.rows += zip(*columns.values(), strict=True)
    return table


def _experiment(row: ReportedResult) -> str:
    """How the number was found, and where it is printed."""
    parts = (setting_of(row.setting), row.device, row.note, f"{row.paper}, {row.place}")
    return "; ".join(part.rstrip(".") for part in parts if part)


def _meaning(atlas: Atlas, row: ReportedResult) -> str:
    term = term_of(atlas, row)
    counted = term.metric if isinstance(term, BenchmarkTerm) else term.name
    return f"{counted}, {row.better} is better"
