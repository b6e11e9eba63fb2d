"""Prints an estimate: for people a table of the stages, what limits the request and what was taken for granted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from lvlm_atlas.cli.options import Report
from lvlm_atlas.cli.plain import csv_text, markdown, subject, table, wrapped
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.shortage import misfit
from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.diagnosis import diagnosis
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.stage import STAGES, Stage, summed
from lvlm_atlas.roofline.units import NO_CHANGE, flop, gain, number, seconds, share, size

COLUMNS = ("stage", "time", "share", "bound", "FLOP/B", "tokens", "FLOP", "bytes")
"""What the table shows of a stage."""


def print_estimate(found: Estimate, plain: Estimate | None, report: Report, *, operators: bool) -> None:
    """Print an estimate.

    Args:
        found: the estimate.
        plain: the same request without techniques, to compare with; None: there are none.
        report: how to print.
        operators: whether to print every operator.

    Raises:
        AtlasError: the devices cannot hold it. As JSON, the estimate is printed all the same.
    """
    problem = misfit(found)
    if report is Report.json:
        error = {"error": {"message": problem, "exit_code": AtlasError.exit_code}} if problem else {}
        _write(json.dumps({**contract(found, operators=operators), **error}, indent=2, ensure_ascii=False))
    elif problem is None:
        _write({Report.table: _page, Report.csv: _csv, Report.md: _markdown}[report](found, plain, operators))
    if problem and report is Report.json:
        sys.stderr.write(f"lvlm-atlas: {problem}\n")
        raise typer.Exit(AtlasError.exit_code)
    if problem:
        raise AtlasError(problem)


def _page(found: Estimate, plain: Estimate | None, operators: bool) -> str:
    columns = (*COLUMNS, "gain") if plain else COLUMNS
    parts = [
        wrapped(_title(found)),
        table(columns, _rows(found, plain), left=("stage", "bound")),
        table(("", "with", "without", "gain") if plain else ("", "predicted"), _sums(found, plain), left=("",)),
    ]
    if operators:
        parts.append(table(_OPERATOR_COLUMNS, _operator_rows(found), left=("operator", "bound")))
    parts.append(wrapped(diagnosis(found)))
    parts.append("\n".join(wrapped(each, "- ") for each in ("Predicted, not measured.", *found.assumptions)))
    return "\n\n".join(parts)


def _markdown(found: Estimate, plain: Estimate | None, operators: bool) -> str:
    columns = (*COLUMNS, "gain") if plain else COLUMNS
    parts = [
        f"**{_title(found)}**",
        markdown(columns, _rows(found, plain)),
        markdown(("", "with", "without", "gain") if plain else ("", "predicted"), _sums(found, plain)),
    ]
    if operators:
        parts.append(markdown(_OPERATOR_COLUMNS, _operator_rows(found)))
    parts.append(f"{diagnosis(found)}.")
    parts.append("\n".join(f"- {each}" for each in ("Predicted, not measured.", *found.assumptions)))
    return "\n\n".join(parts)


def _csv(found: Estimate, plain: Estimate | None, operators: bool) -> str:
    """A row for each stage, or for each operator; SI base units."""
    data = contract(found, operators=operators)
    rows: list[dict[str, Any]] = data["operators"] if operators else list(_stage_rows(data, plain))
    return csv_text(rows)


def _stage_rows(data: dict[str, Any], plain: Estimate | None) -> Iterator[dict[str, Any]]:
    for name, stage in data["stages"].items():
        row = {"stage": name, **stage}
        if plain:
            before = plain.stages[name].time_s
            row |= {"time_s_without": before, "gain": before / stage["time_s"] if stage["time_s"] else None}
        yield row


def _title(found: Estimate) -> str:
    stack = f" with {' + '.join(each.label for each in found.stack)}" if found.stack else ""
    return f"{subject(found)}{stack}"


def _rows(found: Estimate, plain: Estimate | None) -> Iterator[tuple[str, ...]]:
    for name in STAGES:
        yield (*_row(name, found, name), *([_gain(plain, found, name)] if plain else []))
        if plain:
            yield (*_row("  without", plain, name), "")


def _row(label: str, found: Estimate, name: str) -> tuple[str, ...]:
    stage = found.stages[name]
    if not stage.operators:
        return (label, *[""] * (len(COLUMNS) - 1))
    tokens = contract(found)["tokens"]
    count = {
        "encoding": tokens["encoder"],
        "prefilling": tokens["vision"] + tokens["text"],
        "decoding": tokens["output"],
    }[name]
    time, bound, intensity, flops, bytes_ = _costs(stage)
    return label, time, share(stage.time_s / found.total_s), bound, intensity, f"{count:,}", flops, bytes_


def _gain(plain: Estimate, found: Estimate, name: str) -> str:
    return _ratio(plain.stages[name].time_s, found.stages[name].time_s)


def _sums(found: Estimate, plain: Estimate | None) -> Iterator[tuple[str, ...]]:
    after = dict(_quantities(found))
    before = dict(_quantities(plain)) if plain else {}
    for name, (value, shown) in after.items():
        if plain is None:
            yield name, shown
        else:
            old, old_shown = before[name]
            faster = name == "tokens/s"
            yield name, shown, old_shown, _ratio(value, old) if faster else _ratio(old, value)


def _ratio(before: float, after: float) -> str:
    return gain(before, after).replace(NO_CHANGE, "1 ×")


def _quantities(found: Estimate) -> Iterator[tuple[str, tuple[float, str]]]:
    """What an estimate comes to: values, and as they are shown."""
    memory = found.memory
    yield "time to first token", (found.ttft_s, seconds(found.ttft_s))
    if found.tpot_s:
        yield "time per output token", (found.tpot_s, seconds(found.tpot_s))
    yield "total", (found.total_s, seconds(found.total_s))
    if found.tpot_s:
        yield "tokens/s", (found.tokens_s, number(found.tokens_s))
    yield "weights", (memory.weight_byte, size(memory.weight_byte))
    yield "KV cache", (memory.kv_byte, size(memory.kv_byte))
    yield "  of it visual", (memory.kv_vision_byte, size(memory.kv_vision_byte))
    held = f"{size(memory.device_byte)} of {size(found.device.memory_byte)}"
    yield "memory of each device" if found.deployment.devices > 1 else "memory", (memory.device_byte, held)
    if found.energy_j is not None:
        yield "energy per token", (found.energy_j, f"{number(found.energy_j / found.output_tokens)} J")
    if found.cost_usd is not None:
        yield "cost per request", (found.cost_usd, f"{number(found.cost_usd)} USD")


_OPERATOR_COLUMNS = ("operator", "time", "bound", "FLOP/B", "FLOP", "bytes")


def _operator_rows(found: Estimate) -> Iterator[tuple[str, ...]]:
    """Every stage with its operators below it, those of one name together."""
    for stage in found.stages.values():
        if stage.operators:
            yield (stage.name, *_costs(stage))
        names = dict.fromkeys(each.work.name for each in stage.operators)
        for name in names:
            alike = summed(name, [each for each in stage.operators if each.work.name == name])
            yield (f"  {name.removeprefix('technique: ').partition(':')[0]}", *_costs(alike))


def _costs(stage: Stage) -> tuple[str, ...]:
    """What a stage, or a part of one, costs; nothing is shown as nothing."""
    return (
        seconds(stage.time_s),
        _bound(stage.bound),
        number(stage.intensity) if stage.intensity else "",
        flop(stage.flop) if stage.flop else "",
        size(stage.byte) if stage.byte else "",
    )


def _bound(bound: str) -> str:
    return "link" if bound == "communication" else bound


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


def fields() -> Iterable[dict[str, str]]:
    """The fields of the JSON, a row each."""
    from lvlm_atlas.roofline.contract_fields import ERROR_FIELDS, FIELDS, OPERATOR_FIELDS

    for each in (*FIELDS, *OPERATOR_FIELDS, *ERROR_FIELDS):
        yield {"id": each.name, "unit": each.unit, "meaning": each.meaning}
