"""Servers under load: time and memory of a run as it grows, and of a search for the capacity."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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
"""What is to stay within 20 s for 10,000 requests and 3 minutes for a search, on one core."""


def serving() -> Table:
    """A row for each run: processor time and peak memory of the whole command."""
    table = Table("run", "processor time", "peak memory", title="Servers under load")
    for name, command in RUNS.items():
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        spent = usage.ru_utime + usage.ru_stime
        table.add_row(
            name, f"{spent:.1f} s ({time.monotonic() - start:.1f} s by the clock)", f"{usage.ru_maxrss / 1024:.0f} MB"
        )
    return table
