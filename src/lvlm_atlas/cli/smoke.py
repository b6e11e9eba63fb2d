"""Runs smoke tests with a progress bar and prints what came of them."""

from __future__ import annotations

from pathlib import Path

import typer

from lvlm_atlas import load
from lvlm_atlas.atlas.root import authored_root
from lvlm_atlas.cli.progress import progress
from lvlm_atlas.cli.tensors import need_torch
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.schema.measurement import SmokeResult


def run_smoke(
    root: Path, ids: list[str], device: str, dtype: str, *, record: bool, time_s: float, memory_gib: float
) -> int:
    """Run, print and perhaps record; returns how many trials failed.

    Raises:
        AtlasError: torch or the GPU is missing, or an id is unknown.
    """
    need_torch("smoke tests need", device)
    from lvlm_atlas.lab.isolation import Bounds
    from lvlm_atlas.lab.record import record as write
    from lvlm_atlas.lab.smoke import WORKLOAD, jobs_for, smoke

    if record:
        authored_root(root)
    atlas = load(root)
    every = [t for t in atlas.atlas.techniques.values() if t.reference]
    chosen = list({t.id: t for t in map(atlas.technique, ids)}.values()) or every
    if not chosen:
        raise AtlasError("no technique of this catalog has a reference to run")
    workload = WORKLOAD.model_copy(update={"dtype": dtype})
    jobs = jobs_for(chosen, workload, device)
    bounds = Bounds(time_s=time_s, memory_byte=int(memory_gib * 2**30))
    results: list[SmokeResult] = []
    with progress(f"techniques on {device}, {dtype}", len(jobs)) as advance:
        for answer in smoke(jobs, device=device, bounds=bounds):
            results += answer.results
            failed = sum(bool(result.failed) for result in answer.results)
            outcome = f"{failed} of {len(answer.results)} trials FAILED" if failed else "passed"
            advance(f"{answer.results[0].technique} {outcome}")
    results.sort(key=lambda result: result.technique)
    _print(results)
    failed = sum(bool(result.failed) for result in results)
    if record and failed:
        typer.echo("not recorded: a record holds runs that passed", err=True)
    elif record:
        paths = write(authored_root(root), workload, device, results)
        typer.echo(f"recorded in {', '.join(map(str, paths))}")
    return failed


def _print(results: list[SmokeResult]) -> None:
    for result in results:
        setting = ", ".join(f"{name}={value}" for name, value in result.setting.items())
        outcome = f"{len(result.passed)} checks passed" if not result.failed else "FAILED"
        spared = "".join(f"; {check} skipped: {why}" for check, why in result.skipped.items())
        typer.echo(f"{result.technique}({setting}): {outcome}{spared}")
        for check, seen in result.failed.items():
            typer.echo(f"    {check}: {seen}")
    failed = sum(bool(result.failed) for result in results)
    typer.echo(f"{len(results) - failed} of {len(results)} trials passed", err=True)
