"""Prints an estimate: for people a table of the stages, what limits the request and what was taken for granted."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.cli.options import Report
from lvlm_atlas.cli.plain import csv_text, narrow, table, wrapped
from lvlm_atlas.cli.terminal import write
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.shortage import misfit
from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.diagnosis import diagnosis
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.summary import (
    COLUMNS,
    OPERATOR_COLUMNS,
    certainty,
    head,
    markdown_page,
    operator_rows,
    stage_records,
    stage_rows,
    sums,
)

DROPPED = ("FLOP/B", "bytes", "FLOP", "share")
"""Columns that a narrow terminal goes without, the first one first."""


def print_estimate(
    estimate: Estimate, plain: Estimate | None, report: Report, *, root: Path, operators: bool, explain: bool
) -> None:
    """Print an estimate, whether the devices can hold it or not.

    Args:
        estimate: the estimate.
        plain: the same request without techniques, to compare with; None: there are none.
        report: how to print.
        root: the catalog that it rests on; JSON states its digest.
        operators: whether to print every operator.
        explain: whether a page for people says what is taken for granted.

    Raises:
        Exit: the devices cannot hold it.
    """
    problem = misfit(estimate)
    if report is Report.json:
        from lvlm_atlas.atlas.edition import digest

        error = {"error": {"message": problem, "exit_code": AtlasError.exit_code}} if problem else {}
        whole = {**contract(estimate, operators=operators), "data": digest(root), **error}
        _write(as_json(whole))
    elif report is Report.table:
        write(_page(estimate, plain, operators, explain) + "\n")
    else:
        _write({Report.csv: _csv, Report.md: markdown_page}[report](estimate, plain, operators))
    if problem:
        sys.stderr.write(f"lvlm-atlas: {problem}\n")
        raise typer.Exit(AtlasError.exit_code)


def _page(estimate: Estimate, plain: Estimate | None, operators: bool, explain: bool) -> str:
    columns = (*COLUMNS, "gain") if plain else COLUMNS
    rows = list(stage_rows(estimate, plain))
    parts = [
        "\n".join(map(wrapped, (*head(estimate), f"{diagnosis(estimate)}."))),
        narrow(columns, rows, left=("stage", "bound"), dropped=DROPPED),
        table(("", "with", "without", "gain") if plain else ("", "predicted"), sums(estimate, plain), left=("",)),
    ]
    if operators:
        parts.append(table(OPERATOR_COLUMNS, operator_rows(estimate), left=("operator", "bound")))
    if explain:
        parts.append("\n".join(wrapped(each, "- ") for each in (f"{certainty(estimate)}.", *estimate.assumptions)))
    else:
        parts.append(wrapped(f"{certainty(estimate)}; {len(estimate.assumptions)} assumptions: --explain"))
    return "\n\n".join(parts)


def _csv(estimate: Estimate, plain: Estimate | None, operators: bool) -> str:
    """A row for each stage, or for each operator; SI base units."""
    data = contract(estimate, operators=operators)
    rows: list[dict[str, Any]] = data["operators"] if operators else list(stage_records(data, plain))
    return csv_text(rows)


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


def fields() -> Iterable[dict[str, str]]:
    """The fields of the JSON, a row each."""
    from lvlm_atlas.roofline.contract_fields import COMMAND_FIELDS, FIELDS, OPERATOR_FIELDS

    for each in (*FIELDS, *OPERATOR_FIELDS, *COMMAND_FIELDS):
        yield {"id": each.name, "unit": each.unit, "meaning": each.meaning}
