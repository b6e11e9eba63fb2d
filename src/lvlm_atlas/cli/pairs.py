"""Runs techniques in pairs with a progress bar and holds them against the graph; finished pairs are kept."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lvlm_atlas import load
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.cli.progress import progress
from lvlm_atlas.cli.tensors import need_torch
from lvlm_atlas.cli.verify import chosen_techniques

if TYPE_CHECKING:
    from lvlm_atlas.lab.stacks import PairReport

COLUMNS = ("pair", "outcome", "reason")
"""What a table shows."""


def run_pairs(
    root: Path, ids: list[str], device: str, dtype: str, listing: Listing, *, since: str | None, out: Path
) -> int:
    """Run each pair, compare and print; returns how many pairs are not as the entries and the graph say.

    A pair that the constructor of a stack refuses in both orders is not run.

    Args:
        root: folder of the catalog.
        ids: techniques to pair with all others; none means all pairs.
        device: `cpu` or `cuda`.
        dtype: type of weights and activations.
        listing: how to print.
        since: a commit; only pairs with a technique whose entry or module changed since.
        out: folder that keeps what is finished.

    Raises:
        AtlasError: torch or the GPU is missing, an id is unknown or has no reference, or there is no such commit.
    """
    need_torch("verification needs", device)

    from lvlm_atlas.lab.covering import refusals
    from lvlm_atlas.lab.isolation import in_processes
    from lvlm_atlas.lab.pairs import Kept, PairAnswer, about, lost, pair_job
    from lvlm_atlas.lab.stacks import PairRuns, judge

    atlas = load(root)
    implemented = [t for t in atlas.atlas.techniques.values() if t.reference]
    chosen = {t.id for t in chosen_techniques(atlas, root, ids, since)}
    pairs = [pair for pair in combinations(implemented, 2) if chosen & {each.id for each in pair}]
    refused = refusals(implemented)
    kept = Kept(out)
    keys: list[str] = []
    jobs, runs = [], []
    for one, two in pairs:
        reasons = [refused[one.id, two.id], refused[two.id, one.id]]
        if all(reasons):
            runs.append(PairRuns(pair=(one.id, two.id), refused=dict.fromkeys(filter(None, reasons), 0)))
            continue
        job = pair_job(atlas.atlas, one, two, dtype, device)
        keys.append(job.key)
        if job.key not in kept.answers:
            jobs.append(job)
    with progress(f"pairs on {device}, {dtype}", len(keys), len(keys) - len(jobs)) as advance:
        try:
            for answer in in_processes(jobs, "lvlm_atlas.lab.pairs", PairAnswer, lost, about, device=device):
                kept.add(answer)
                advance()
        except KeyboardInterrupt:
            typer.echo(f"interrupted: finished pairs are kept in {out}, and the same command goes on", err=True)
            raise
    runs += [kept.answers[key].runs for key in keys]
    reports = sorted((judge(each, atlas.between(*each.pair)) for each in runs), key=lambda report: report.pair)
    print_rows([_row(each) for each in reports], COLUMNS, listing)
    for each in reports:
        for fault in each.faults:
            typer.echo(f"{' + '.join(each.pair)}: {fault}", err=True)
    failed = sum(bool(each.faults) for each in reports)
    typer.echo(f"{len(reports) - failed} of {len(reports)} pairs are as their entries and the graph say", err=True)
    return failed


def _row(report: PairReport) -> dict[str, str]:
    pair = " + ".join(report.pair)
    outcome = "FAULTY" if report.faults else "composes" if report.composed else "refused"
    reason = "; ".join(report.faults or ([] if report.composed else report.refused))
    return {"id": pair, "pair": pair, "outcome": outcome, "reason": reason}
