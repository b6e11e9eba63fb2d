"""Reads a question about a server under load, runs it and prints the answer."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.cli.options import Report
from lvlm_atlas.cli.plain import csv_text, narrow, wrapped
from lvlm_atlas.cli.request_options import DeploymentOptions
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.metric import limits
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.units import number, seconds, share
from lvlm_atlas.rows import markdown
from lvlm_atlas.serving.capacity import best
from lvlm_atlas.serving.contract import LoadRow, assumptions, document, row
from lvlm_atlas.serving.load import Load, objective
from lvlm_atlas.serving.policies import policy, splits
from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.scenario import Scenario, wired
from lvlm_atlas.serving.simulation import Run
from lvlm_atlas.serving.stacks import Stacks
from lvlm_atlas.serving.trace import read
from lvlm_atlas.serving.traffic import Arrival, Kind, Mix, scaled, synthetic

MOST_RATES = 64
ATTAIN = 0.9
"""Share of the requests that must be within the objective for a server to keep it."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the command was asked; the options by name."""

    model: str
    hardware: str
    rate: str | None
    policies: list[str]
    workloads: list[str] | None
    trace: Path | None
    image_size: str
    stacks: list[str]
    slo: list[str]
    requests: int | None
    seed: int
    burstiness: float
    spread: float
    reuse: float
    capacity: bool
    attain: float
    link_gb_s: float | None
    link_latency_s: float
    host_image_s: float
    host_workers: int
    timeline: Path | None
    deployment: DeploymentOptions


Stream = Callable[[float | None, int | None], Iterable[Arrival]]
REQUESTS = 1000
BEST = "best"
"""In place of sizes: those at which the server keeps its limits at the highest rate."""
MOST_SPLITS = 2000


def print_loads(asked: Question, root: Path, report: Report, *, explain: bool) -> None:
    """Run each combination of policy, stack and rate, and print a row for it.

    Raises:
        AtlasError: an option is wrong, or a server cannot hold a request.
        Exit: there are limits, and no row keeps them.
    """
    planner = Planner(root)
    rates, stream, kinds, workload = _traffic(asked, planner)
    groups = list(_scenarios(asked, planner, kinds))
    scenarios: list[Scenario] = []
    rows: list[LoadRow] = []
    loads: list[Load] = []
    last: Run | None = None
    for group in groups:
        for scenario, rate, load, run in _answers(asked, group, rates, stream):
            last = run
            scenarios.append(scenario)
            loads.append(load)
            rows.append(row(scenario, load, rate))
    if asked.timeline and last is not None:
        from lvlm_atlas.files import replace_file
        from lvlm_atlas.serving.timeline import timeline

        replace_file(asked.timeline, timeline(last), shown=asked.timeline)
    if report is Report.json:
        text = as_json(document(rows, scenarios, workload, digest(root)))
    elif report is Report.csv:
        text = csv_text([_flat(each) for each in rows])
    else:
        text = _page(asked, scenarios, workload, rows, loads, explain=explain, marked=report is Report.md)
    sys.stdout.write(text + "\n")
    if asked.slo and not any(each.attainment >= asked.attain for each in loads):
        sys.stderr.write(f"no row keeps the limits for {share(asked.attain)} of the requests\n")
        raise typer.Exit(1)


def _answers(
    asked: Question, group: list[Scenario], rates: Sequence[float | None], stream: Stream
) -> Iterator[tuple[Scenario, float | None, Load, Run]]:
    if asked.capacity:
        scenario, found = best(group, stream, asked.attain, enough=asked.requests is None)
        yield scenario, found.rate, found.load, found.run
        return
    (scenario,) = group
    prices = scenario.prices()
    for rate in rates:
        yield scenario, rate, *scenario.run(stream(rate, None), prices)


def _traffic(asked: Question, planner: Planner) -> tuple[Sequence[float | None], Stream, list[Any], str]:
    """The rates, the requests at one of them, the kinds of requests, and a name for all of them."""
    rates: Sequence[float | None] = _rates(asked.rate) if asked.rate else [None if asked.trace else 1.0]
    if asked.capacity and asked.rate:
        raise AtlasError("--capacity finds the rate; leave --rate out")
    if asked.trace:
        if asked.workloads:
            raise AtlasError("--trace says what arrives; leave --workload out")
        found = read(asked.trace, image_size=asked.image_size)[: asked.requests or None]

        def replay(rate: float | None, _: int | None) -> Iterable[Arrival]:
            if rate is None:
                return found
            return [each._replace(at_s=0.0) for each in found] if math.isinf(rate) else scaled(found, rate)

        kinds = list({(bool(e.workload.images), bool(e.workload.videos)): e.workload for e in found}.values())
        return rates, replay, kinds, asked.trace.name
    mix = Mix(
        tuple(_kind(planner, each) for each in asked.workloads or ["single-image-chat"]), spread=asked.spread,
        reuse=asked.reuse, seed=asked.seed,
    )  # fmt: skip
    name = " + ".join(
        f"{kind.share:g} {kind.workload.id}" if len(mix.kinds) > 1 else kind.workload.id for kind in mix.kinds
    )
    return (
        rates,
        lambda rate, number: synthetic(
            mix, rate or 1.0, number or asked.requests or REQUESTS, burstiness=asked.burstiness
        ),
        [kind.workload for kind in mix.kinds],
        name,
    )


def _kind(planner: Planner, text: str) -> Kind:
    """A workload of a mix, from `id@share`."""
    id_, _, part = text.partition("@")
    try:
        weight = float(part) if part else 1.0
    except ValueError:
        raise AtlasError(f"--workload {text}: {part!r} is no share; write such as images-20@0.2") from None
    return Kind(planner.workload(id_.strip()), weight)


def _rates(text: str) -> list[float]:
    """Rates from `4`, `1,2,4` or `1..32`.

    Raises:
        AtlasError: one is no number above 0, or there are too many.
    """
    found: list[float] = []
    for part in text.split(","):
        ends = part.split("..")
        try:
            first, *rest = (float(end) for end in ends)
        except ValueError:
            first, rest = math.nan, []
        last = rest[0] if rest else first
        if len(ends) > 2 or not (0 < first <= last < math.inf):
            raise AtlasError(f"--rate {text}: {part.strip()!r} are no requests a second; write 4, 1,2,4 or 1..32")
        while first < last * (1 - 1e-9) and len(found) <= MOST_RATES:
            found.append(first)
            first *= 2
        found.append(last)
    if len(found) > MOST_RATES:
        raise AtlasError(f"--rate {text}: those are more than {MOST_RATES} rates; give fewer")
    return found


def _scenarios(asked: Question, planner: Planner, kinds: list[Any]) -> Iterator[list[Scenario]]:
    model = planner.model(asked.model)
    id_, devices = _devices(asked.hardware)
    device = planner.device(id_)
    setup = asked.deployment.to_deployment(planner, with_limits=asked.deployment.runtime is None)
    if setup.pipeline_parallel > 1:
        raise AtlasError("--pp: an instance of a simulated server shares each layer; give --tp, and leave --pp out")
    wires = wired(
        device, link_gb_s=asked.link_gb_s, latency_s=asked.link_latency_s, host_image_s=asked.host_image_s,
        host_workers=asked.host_workers,
    )  # fmt: skip
    slo = objective(limits(asked.slo))
    for text in asked.policies:
        layouts = _layouts(asked, planner, text, devices, setup.tensor_parallel)
        for stack in asked.stacks:
            plain = stack.strip() == "none"
            chosen = Stacks(None if plain else planner.kb, stack, model, kinds)
            yield [
                Scenario(
                    model=model, device=device, deployment=setup, policy=layout, stack=chosen, labels=chosen.labels,
                    slo=slo, wires=wires,
                )
                for layout in layouts
            ]  # fmt: skip


def _layouts(asked: Question, planner: Planner, text: str, devices: int | None, each: int) -> list[Policy]:
    """One policy, or a policy in all sizes."""
    name, _, sizes = text.partition(":")
    if sizes.strip() != BEST:
        return [policy(planner.atlas.systems, text, devices, each)]
    if not asked.capacity or devices is None:
        raise AtlasError(
            f"--policy {text}: sizes are searched with --capacity and a number of devices, as in h100-sxm:8"
        )
    found = list(islice(splits(planner.atlas.systems, name.strip(), devices // each), MOST_SPLITS + 1))
    if len(found) > MOST_SPLITS:
        raise AtlasError(
            f"--policy {text}: its pools have more than {MOST_SPLITS:,} sizes; give them, or fewer devices"
        )
    return found


def _devices(text: str) -> tuple[str, int | None]:
    """A device and how many there are, from `h100-sxm:8`."""
    match = re.fullmatch(r"(.+?)(?::(\d{1,6}))?", text.strip(), re.ASCII)
    if not match or (match[2] and not int(match[2])):
        raise AtlasError(f"--hardware {text}: no device; write such as h100-sxm:8")
    return match[1], int(match[2]) if match[2] else None


COLUMNS = (
    "policy", "stack", "rate", "req/s", "TTFT p50", "p90", "p99", "TPOT p50", "p90 ", "p99 ", "within", "goodput",
    "busy", "J/token", "USD/req",
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
        number(load.goodput) if load.slo else "", named,
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
