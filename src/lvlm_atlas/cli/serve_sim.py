"""Reads a question about a server under load, runs it and prints the answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.cli.options import Report
from lvlm_atlas.cli.plain import csv_text, narrow, wrapped
from lvlm_atlas.cli.serve_answers import answers
from lvlm_atlas.cli.serve_question import Question, scenarios, traffic
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.units import number, seconds, share
from lvlm_atlas.rows import markdown
from lvlm_atlas.serving.contract import LoadRow, assumptions, document
from lvlm_atlas.serving.load import Load
from lvlm_atlas.serving.scenario import Scenario
from lvlm_atlas.serving.simulation import Run


def print_loads(asked: Question, root: Path, report: Report, *, explain: bool) -> None:
    """Run each combination of policy, stack and rate, and print a row for it.

    Raises:
        AtlasError: an option is wrong, or a server cannot hold a request.
        Exit: there are limits, and no row keeps them.
    """
    planner = Planner(root)
    rates, stream, kinds, workload = traffic(asked, planner)
    groups = list(scenarios(asked, planner, kinds))
    servers: list[Scenario] = []
    rows: list[LoadRow] = []
    loads: list[Load] = []
    last: Run | None = None
    for group in groups:
        for answer in answers(asked, group, rates, stream):
            last = answer.run
            servers.append(answer.scenario)
            loads.append(answer.load)
            rows.append(answer.row)
    if asked.timeline and last is not None:
        from lvlm_atlas.files import replace_file
        from lvlm_atlas.serving.timeline import timeline

        replace_file(asked.timeline, timeline(last), shown=asked.timeline)
    if report is Report.json:
        text = as_json(document(rows, servers, workload, digest(root)))
    elif report is Report.csv:
        text = csv_text([_flat(each) for each in rows])
    else:
        text = _page(asked, servers, workload, rows, loads, explain=explain, marked=report is Report.md)
    sys.stdout.write(text + "\n")
    if asked.slo and not any(each.attainment >= asked.attain for each in loads):
        sys.stderr.write(f"no row keeps the limits for {share(asked.attain)} of the requests\n")
        raise typer.Exit(1)


COLUMNS = (
    "policy", "stack", "rate", "req/s", "TTFT p50", "p90", "p99", "TPOT p50", "p90 ", "p99 ", "within", "goodput",
    "η", "busy", "J/token", "USD/req",
)  # fmt: skip
DROPPED = ("busy", "p90", "p90 ", "J/token", "req/s", "p99 ", "USD/req", "stack")


def _page(
    asked: Question, scenarios: list[Scenario], workload: str, rows: list[LoadRow], loads: list[Load], *,
    explain: bool, marked: bool,
) -> str:  # fmt: skip
    first = scenarios[0]
    near = first.deployment.pace
    title = (
        f"{first.model.name} on {first.devices} × {first.device.name}, {workload}, {loads[0].requests:,} requests, "
        + near
    )
    if first.deployment.tensor_parallel > 1:
        title += f", {first.deployment.tensor_parallel} devices an instance"
    table_rows = [_cells(each, load) for each, load in zip(rows, loads, strict=True)]
    kept = [index for index in range(len(COLUMNS)) if any(line[index] for line in table_rows)]
    columns = [COLUMNS[index] for index in kept]
    cells = [[line[index] for index in kept] for line in table_rows]
    told = list(dict.fromkeys(each for scenario in scenarios for each in assumptions(scenario)))
    if marked:
        parts = [f"**{title}**", markdown([each.strip() for each in columns], cells)]
        parts += [f"- {each}" for each in ("Predicted, not measured.", *told)]
        return "\n\n".join(parts[:2]) + "\n\n" + "\n".join(parts[2:])
    parts = [wrapped(title), narrow(columns, cells, left=("policy", "stack"), dropped=DROPPED)]
    parts += [wrapped(each) for each in _notes(asked, rows, loads)]
    if explain:
        parts.append("\n".join(wrapped(each, "- ") for each in ("Predicted, not measured.", *told)))
    else:
        parts.append(wrapped(f"Predicted, not measured; {len(told)} assumptions: --explain"))
    return "\n\n".join(parts)


def _cells(each: LoadRow, load: Load) -> list[str]:
    ttft, tpot = load.ttft, load.tpot
    busy = max(load.pools, key=lambda pool: pool.busy)
    named = f"{busy.stages} {share(busy.busy)}"
    return [
        each["policy"], "+".join(each["stack"]), "" if each["rate"] is None else number(each["rate"]),
        number(load.requests_s), *(seconds(t) for t in (ttft.p50, ttft.p90, ttft.p99)),
        *(seconds(t) for t in (tpot.p50, tpot.p90, tpot.p99)), share(load.attainment) if load.slo else "",
        number(load.goodput) if load.slo else "",
        "" if each["eta_scale"] is None else share(each["eta_scale"]), named,
        "" if load.energy_j_token is None else number(load.energy_j_token),
        "" if load.cost_usd is None else number(load.cost_usd),
    ]  # fmt: skip


def _notes(asked: Question, rows: list[LoadRow], loads: list[Load]) -> Iterator[str]:
    """What a reader must know of single rows."""
    over = [f"{each['policy']} at {number(each['rate'])}" for each in rows if each["saturated"] and each["rate"]]
    if over:
        yield f"Overrun, so that waits grow with the length of the run: {', '.join(over)}."
    gave_way = sum(each.preemptions for each in loads)
    if gave_way:
        yield f"Caches given up for want of room and read again: {gave_way:,}."
    if asked.grow:
        yield f"η: share within the limits at {asked.grow} times the rate and devices, over that in the row."
    if asked.capacity:
        yield f"Rates are the highest within the limits for {share(asked.attain)} of the requests, to 2 %."


def _flat(each: LoadRow) -> dict[str, Any]:
    """A row for CSV; SI base units."""
    flat: dict[str, Any] = {}
    for key, value in each.items():
        if key == "pools":
            continue
        if isinstance(value, dict):
            flat |= {f"{key}_{name}": inner for name, inner in value.items()}
        else:
            flat[key] = "+".join(value) if isinstance(value, list) else value
    return flat
