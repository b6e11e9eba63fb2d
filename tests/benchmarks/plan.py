"""Plans over 110 techniques, three at most in a stack: processor time after load and peak memory, for each goal."""

from __future__ import annotations

import gc
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memory import peak_byte

from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from synthetic import varied

TECHNIQUES, IN_A_STACK = 110, 3
TARGET_S, TARGET_MB = 15, 250


class Case(NamedTuple):
    """A request and what to bring down."""

    model: str
    workload: str
    goal: str


CASES = (
    Case("qwen2.5-vl-7b", "images-20", "ttft"),
    Case("qwen2.5-vl-7b", "video-60s", "tpot"),
    Case("qwen2.5-vl-72b", "video-1h", "total"),
    Case("qwen2.5-vl-7b", "images-20", "memory"),
    Case("qwen2.5-vl-72b", "images-20", "memory"),
    Case("qwen2.5-vl-72b", "document-pages", "cost"),
    Case("llava-1.5-7b", "multi-turn", "energy"),
)


class Spent(NamedTuple):
    """What a plan took."""

    time_s: float
    peak_mb: float
    """Of the whole process."""
    stacks: int
    front: int


def spent(case: Case) -> Spent:
    """Make one plan, in a process that does nothing else."""
    gc.set_threshold(50_000)  # as the command line does
    planner = Planner(kb=varied(Planner().kb.atlas, TECHNIQUES))
    deployment = Deployment(tensor_parallel=4, price_usd_h=3.0)
    begin = time.process_time()
    plan = planner.plan(
        case.model, "h200", case.workload, goal=case.goal, max_techniques=IN_A_STACK, deployment=deployment
    )
    time_s = time.process_time() - begin
    return Spent(time_s, peak_byte() / 1e6, plan.searched, len(plan.front))


def planning(console: Console) -> None:
    """Time plans over made-up techniques of every shape."""
    table = Table(
        title=f"plan over {TECHNIQUES} techniques, {IN_A_STACK} at most (targets: {TARGET_S} s, {TARGET_MB} MB)"
    )
    for column in ("goal", "request, on 4 H200", "stacks", "s", "µs a stack", "MB", "front"):
        table.add_column(column, justify="left" if column in ("goal", "request, on 4 H200") else "right")
    spawn = multiprocessing.get_context("spawn")
    for case in track(CASES, "plans", console=console, transient=True):
        with ProcessPoolExecutor(1, mp_context=spawn) as alone:
            took = alone.submit(spent, case).result()
        table.add_row(
            case.goal, f"{case.model}, {case.workload}", f"{took.stacks:,}", f"{took.time_s:.1f}",
            f"{1e6 * took.time_s / took.stacks:.0f}", f"{took.peak_mb:.0f}", str(took.front),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    planning(Console())
