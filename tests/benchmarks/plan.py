"""A plan over 60 techniques, three at most in a stack: processor seconds after load, and the stacks searched."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lvlm_atlas.planner.plan import Plan
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from synthetic import varied

CASES = (
    ("qwen2.5-vl-7b", "h200", "images-20", "total"),
    ("qwen2.5-vl-7b", "h200", "images-20", "ttft"),
    ("qwen2.5-vl-7b", "h200", "video-60s", "tpot"),
    ("qwen2.5-vl-72b", "h200", "document-pages", "cost"),
    ("qwen2.5-vl-72b", "h200", "images-20", "memory"),
)


def planning(console: Console, count: int = 60, most: int = 3) -> None:
    """Time plans over made-up techniques of every shape."""
    gc.set_threshold(50_000)  # as the command line does
    table = Table(title=f"plan over {count} techniques, {most} at most (target: 5 s)")
    for column in ("request", "stacks", "s", "µs a stack", "front"):
        table.add_column(column, justify="left" if column == "request" else "right")
    deployment = Deployment(tensor_parallel=4, price_usd_h=3.0)
    for model, hardware, workload, goal in CASES:
        planner = Planner(kb=varied(Planner().kb.atlas, count))
        begin = time.process_time()
        plan: Plan = planner.plan(model, hardware, workload, goal=goal, max_techniques=most, deployment=deployment)
        spent = time.process_time() - begin
        table.add_row(
            f"{model}, {hardware}, {workload}, {goal}", f"{plan.searched:,}", f"{spent:.2f}",
            f"{1e6 * spent / plan.searched:.0f}", str(len(plan.front)),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    planning(Console())
