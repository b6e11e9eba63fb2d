"""Sweeps: time as points grow, processes, and peak memory. Each run is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

PROGRAM = """
import json, resource, sys, time
from memory import peak_byte
from lvlm_atlas.sweep import sweep
begin = time.perf_counter()
points = sweep(sys.argv[1], **json.loads(sys.argv[2])).points
wall_s = time.perf_counter() - begin
parent, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
unit = 2**10 if sys.platform == "linux" else 1
print(json.dumps({
    "points": points, "wall_s": wall_s,
    "parent_s": parent.ru_utime + parent.ru_stime, "workers_s": workers.ru_utime + workers.ru_stime,
    "parent_mib": peak_byte() / 2**20, "worker_mib": workers.ru_maxrss * unit / 2**20,
}))
"""
GRID = {
    "models": ["all"],
    "hardware": ["all"],
    "workloads": ["single-image-chat", "images-20", "document-pages", "batch-captioning", "multi-turn"],
    "stacks": ["none", "fastv:keep_ratio=0.5"],
}
ROUNDS = 3


def swept(batches: int, workers: int) -> dict[str, Any]:
    """What a sweep took, at so many batch sizes."""
    arguments = {**GRID, "batches": list(range(1, batches + 1)), "workers": workers}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROGRAM, str(Path(folder) / "results"), json.dumps(arguments)]
        here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=here)
        found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "workers": workers}


def growth(console: Console) -> None:
    """Time and peak memory as points grow, with two processes."""
    table = Table(title="sweep, 2 processes (target: 100,000 points, time linear in points, memory flat)")
    for column in ("points", "s", "ms a point", "processor ms a point", "parent, MiB", "worker, MiB"):
        table.add_column(column, justify="right")
    for run in _tracked(console, "sweep", [(batches, 2) for batches in (5, 9, 19)]):
        each = [1_000 * time_s / run["points"] for time_s in (run["wall_s"], run["parent_s"] + run["workers_s"])]
        memory = (f"{run['parent_mib']:.0f}", f"{run['worker_mib']:.0f}")
        table.add_row(f"{run['points']:,}", f"{run['wall_s']:.1f}", *(f"{time_ms:.3f}" for time_ms in each), *memory)
    console.print(table)


def scaling(console: Console) -> None:
    """Wall time of two processes against one, best of some rounds, since others may use the cores meanwhile.

    The last columns tell what two free cores would give: the processor time of all processes together, which should
    not grow, and the share of it that only the parent can spend, which bounds every speed-up.
    """
    runs = list(_tracked(console, "processes", [(5, workers) for _ in range(ROUNDS) for workers in (1, 2)]))
    one, two = (min(runs[start::2], key=lambda run: run["wall_s"]) for start in (0, 1))
    used = {run["workers"]: run["parent_s"] + run["workers_s"] for run in (one, two)}
    table = Table(title=f"sweep of {one['points']:,} points, best of {ROUNDS} rounds (target: 1.7 times as fast)")
    for column in ("processes", "s", "times as fast", "processor s", "parent's share"):
        table.add_column(column, justify="right")
    for run in (one, two):
        faster, share = one["wall_s"] / run["wall_s"], run["parent_s"] / used[run["workers"]]
        row = (f"{run['wall_s']:.1f}", f"{faster:.2f}", f"{used[run['workers']]:.1f}", f"{share:.1%}")
        table.add_row(str(run["workers"]), *row)
    console.print(table)


def _tracked(console: Console, what: str, runs: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for batches, workers in track(runs, what, console=console, transient=True):
        yield swept(batches, workers)


if __name__ == "__main__":
    growth(Console())
    scaling(Console())
