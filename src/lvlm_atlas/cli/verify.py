"""Holds references against what their entries declare, with a progress bar, and prints what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lvlm_atlas import load
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.cli.progress import progress
from lvlm_atlas.cli.tensors import need_torch
from lvlm_atlas.lab.conformance import Report, job_for, report, shown
from lvlm_atlas.lab.reference import reference_of
from lvlm_atlas.lab.verification import Outcome, Row, StackAnswer, about, lost

if TYPE_CHECKING:
    from lvlm_atlas.graph.knowledge import KnowledgeBase
    from lvlm_atlas.schema.technique import Technique

COLUMNS = ("entry", "quantity", "declared", "observed")
"""What a table shows."""


def run_verify(
    root: Path, ids: list[str], device: str, dtype: str, listing: Listing, *, every: bool, since: str | None = None
) -> int:
    """Run, compare and print; returns how many entries do not hold.

    Args:
        root: folder of the catalog.
        ids: techniques; none means all that have a reference.
        device: `cpu` or `cuda`.
        dtype: type of weights and activations.
        listing: how to print.
        every: print a row for each run, in place of one for all runs.
        since: a commit; only techniques whose entry or module changed since.

    Raises:
        AtlasError: torch or the GPU is missing, an id is unknown or has no reference, or there is no such commit.
    """
    need_torch("verification needs", device)

    from lvlm_atlas.lab.isolation import in_processes

    atlas = load(root)
    chosen = chosen_techniques(atlas, root, ids, since)
    jobs = [job_for(atlas.atlas, technique, dtype, device) for technique in chosen]
    answers: list[StackAnswer] = []
    with progress(f"techniques on {device}, {dtype}", len(jobs)) as advance:
        for answer in in_processes(jobs, "lvlm_atlas.lab.observation", StackAnswer, lost, about, device=device):
            answers.append(answer)
            one = report(answer)
            advance(f"{one.technique} {'holds' if one.holds else 'does NOT hold'}")
    answers.sort(key=lambda answer: answer.job.items[0].technique.id)
    reports = [report(answer) for answer in answers]
    print_rows(_every_run(answers) if every else merged_rows(reports), COLUMNS, listing)
    _say(reports, sum(len(answer.outcomes) for answer in answers))
    return sum(not each.holds for each in reports)


def chosen_techniques(atlas: KnowledgeBase, root: Path, ids: list[str], since: str | None) -> list[Technique]:
    """Those that are named, or all that have a reference; with `since` only those that changed.

    Raises:
        AtlasError: an id is unknown or has no reference, or there is no such commit.
    """
    from lvlm_atlas.lab.changes import changed

    implemented = [t for t in atlas.atlas.techniques.values() if t.reference]
    chosen = list({t.id: t for t in map(atlas.technique, ids)}.values()) or implemented
    for each in chosen:
        reference_of(each)
    return changed(root, chosen, since) if since else chosen


def merged_rows(reports: Iterable[Report]) -> list[dict[str, Any]]:
    """A row for each entry and quantity that it changes or gets wrong, one for all that it leaves alone, and one for
    its runs where most were refused.
    """
    rows = []
    for each in reports:
        alone = [line for line in each.lines if not line.formulas and not line.mismatches]
        for line in each.lines:
            if line not in alone:
                observed = f"as declared in {line.held} of {line.runs} runs, bites in {line.bites}"
                rows.append(_row(each.technique, line.quantity, "; ".join(line.formulas) or "unchanged", observed))
        if alone:
            observed = f"unchanged in {alone[0].runs} of {alone[0].runs} runs"
            rows.append(_row(each.technique, f"{len(alone)} others", "unchanged", observed))
        if 2 * each.refused > each.runs:
            observed = f"{each.runs} runs, {each.refused} refused: {each.refusal}"
            rows.append(_row(each.technique, "runs", "most go through", observed))
    return rows


def _every_run(answers: Iterable[StackAnswer]) -> list[dict[str, Any]]:
    """A row for each entry, run and measure."""
    return [
        {
            **_row(answer.job.items[0].technique.id, row.measure, _bounds(row), _numbers(row)),
            "setting": outcome.plan.settings[0],
            "request": outcome.plan.shape.model_dump(mode="json"),
            "holds": row.holds,
        }
        for answer in answers
        for outcome in answer.outcomes
        for row in outcome.rows
    ]


def _row(technique: str, quantity: str, declared: str, observed: str) -> dict[str, Any]:
    return {
        "id": f"{technique} {quantity}",
        "entry": technique,
        "quantity": quantity,
        "declared": declared,
        "observed": observed,
    }


def _say(reports: Sequence[Report], runs: int) -> None:
    """Everything that is wrong, then the sum."""
    for each in reports:
        for line in each.lines:
            for outcome, row in line.mismatches:
                typer.echo(f"{each.technique}: {_said(outcome, row)}", err=True)
        for fault in each.faults:
            typer.echo(f"{each.technique}: {fault}", err=True)
    held, refused = sum(each.holds for each in reports), sum(each.refused for each in reports)
    typer.echo(f"{held} of {len(reports)} entries hold over {runs} runs, {refused} of them refused", err=True)


def _said(outcome: Outcome, row: Row) -> str:
    return f"{row.measure}: declared {_bounds(row)}, observed {_numbers(row)}; {shown(outcome.plan)}"


def _bounds(row: Row) -> str:
    return ", ".join(f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}" for low, high in row.declared)


def _numbers(row: Row) -> str:
    return "not in the trace" if row.observed is None else ", ".join(f"{number:.6g}" for number in row.observed)
