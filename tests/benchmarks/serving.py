"""Servers under load: time and memory of a run as it grows, and of a search for the capacity."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

PROGRAM = str(Path(sys.executable).with_name("lvlm-atlas"))
SERVER = [PROGRAM, "serve-sim", "--model", "qwen2.5-vl-7b", "--device"]
LIMITS = ["--slo", "ttft=1s", "--slo", "tpot=50ms"]
RUNS = {
    "1,000 requests, one device": [*SERVER, "h100-sxm", "--rate", "6", "--spread", "0.5", "-n", "1000"],
    "10,000 requests, one device": [*SERVER, "h100-sxm", "--rate", "6", "--spread", "0.5", "-n", "10000"],
    "100,000 requests, one device": [*SERVER, "h100-sxm", "--rate", "6", "-n", "100000"],
    "capacity, one device": [*SERVER, "h100-sxm", "--capacity", *LIMITS],
    "capacity, eight devices": [*SERVER, "h100-sxm:8", "--capacity", *LIMITS],
}


def serving(console: Console) -> None:
    """A row for each run: processor time and peak memory of the whole command, on one core."""
    table = Table(title="servers under load (targets: 20 s for 10,000 requests, 3 minutes for a search)")
    for column in ("run", "processor s", "s", "peak MB"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, command in track(RUNS.items(), "servers", console=console, transient=True):
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - begin
        if status:
            raise RuntimeError(f"{name}: ended with {os.waitstatus_to_exitcode(status)}")
        spent_s = usage.ru_utime + usage.ru_stime
        table.add_row(name, f"{spent_s:.1f}", f"{wall_s:.1f}", f"{usage.ru_maxrss / 1024:.0f}")
    console.print(table)


if __name__ == "__main__":
    serving(Console())
