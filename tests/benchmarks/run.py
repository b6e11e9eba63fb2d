"""`make bench`: start-up against the bare libraries, and loading as the catalog grows.

Timings are ratios within one run on one machine; they say nothing about another. Start-up is processor time, which
other programs on the machine disturb less, of Python that keeps compiled modules, as an installation does.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from plan import planning  # noqa: E402
from relations import relations, site  # noqa: E402

from lvlm_atlas.atlas.loader import load  # noqa: E402
from lvlm_atlas.planner import Planner  # noqa: E402
from lvlm_atlas.roofline.estimate import estimate  # noqa: E402
from lvlm_atlas.rules.sample import sound, write  # noqa: E402
from serving import serving  # noqa: E402
from strategies import synthetic_files  # noqa: E402
from sweep import growth, scaling  # noqa: E402

PROGRAM = str(Path(sys.executable).with_name("lvlm-atlas"))
ESTIMATE = [PROGRAM, "estimate", "--model", "qwen2.5-vl-7b", "--hardware", "h200", "--workload", "images-20"]
BARE = "import pydantic, yaml"
COMMANDS = {
    BARE: [sys.executable, "-c", BARE],
    f"{BARE}, typer": [sys.executable, "-c", f"{BARE}, typer"],
    "lvlm-atlas list": [PROGRAM, "list"],
    "lvlm-atlas show fastv": [PROGRAM, "show", "fastv"],
    "lvlm-atlas query 'stage:prefilling …'": [PROGRAM, "query", "stage:prefilling and training:none"],
    "lvlm-atlas query 'within(fastv, 2)'": [PROGRAM, "query", "within(fastv, 2)"],
    "lvlm-atlas estimate": ESTIMATE,
    "lvlm-atlas estimate --stack fastv": [*ESTIMATE, "--stack", "fastv"],
}


def cpu_s(command: list[str], **environment: str) -> float:
    """Processor time of a process in seconds, of user and system together."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=inherited | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_up(console: Console, rounds: int = 15) -> None:
    """Median processor time of each command, interleaved, as a ratio to the bare imports."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        cpu_s(command)  # compiles modules and leaves the snapshot
    for _ in track(range(rounds), "start-up", console=console, transient=True):
        for name, command in COMMANDS.items():
            times[name].append(cpu_s(command))
    medians = {name: statistics.median(rounds_s) for name, rounds_s in times.items()}
    bare, typer = medians[BARE], medians[f"{BARE}, typer"]
    table = Table(
        title=f"start-up, median of {rounds} rounds (targets: estimate 4.0 of the bare imports; of those with typer "
        "list, show and query on fields 2.0, within 2.5)"
    )
    for column in ("command", "processor s", "ratio", "to typer"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, median in medians.items():
        table.add_row(name, f"{median:.3f}", f"{median / bare:.2f}", f"{median / typer:.2f}")
    console.print(table)


def growing(console: Console, rounds: int = 5) -> None:
    """The same commands over more entries, with the snapshot of the last command and without any."""
    table = Table(title=f"list over synthetic entries, median of {rounds} rounds (to the bare imports with typer)")
    for column in ("entries", "with snapshot", "without"):
        table.add_column(column, justify="right")
    typer = [sys.executable, "-c", f"{BARE}, typer"]
    with tempfile.TemporaryDirectory() as folder:
        cache = {"XDG_CACHE_HOME": folder}
        for count in track((10, 126, 500), "growth", console=console, transient=True):
            root = write(sound() | synthetic_files(count), Path(folder) / str(count))
            command = [PROGRAM, "list", "--root", str(root)]
            time.sleep(2.1)  # younger files are not kept
            cpu_s(command, **cache)
            seen = [
                (cpu_s(typer), cpu_s(command, **cache), cpu_s(command, LVLM_ATLAS_SNAPSHOT="off"))
                for _ in range(rounds)
            ]
            bare, fast, slow = map(statistics.median, zip(*seen, strict=True))
            table.add_row(str(count), f"{fast / bare:.2f}", f"{slow / bare:.2f}")
    console.print(table)


def loading(console: Console) -> None:
    """Processor time to load catalogs of synthetic entries."""
    table = Table(title="loading synthetic entries (target: 1,000 in at most 1.5 s, linear)")
    for column in ("entries", "processor s", "ms an entry"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for count in track((100, 1_000, 10_000), "loading", console=console, transient=True):
            root = write(sound() | synthetic_files(count), Path(folder) / str(count))
            os.environ["LVLM_ATLAS_SNAPSHOT"] = "off"
            seen = []
            for _ in range(3):
                begin = time.process_time()
                load(root)
                seen.append(time.process_time() - begin)
            best = min(seen)
            table.add_row(f"{count:,}", f"{best:.3f}", f"{1_000 * best / count:.3f}")
    console.print(table)


def estimating(console: Console, rounds: int = 300) -> None:
    """Median processor time of one estimate with all its operators, after load, on one core."""
    planner = Planner()
    table = Table(title=f"one estimate on an H200, median of {rounds} (target: 1 ms for the 72B)")
    for column in ("model", "workload", "ms", "operators"):
        table.add_column(column, justify="left" if column in ("model", "workload") else "right")
    for id_ in ("qwen2.5-vl-7b", "qwen2.5-vl-72b"):
        for request in ("images-20", "video-1h", "multi-turn"):
            model, device, workload = planner.model(id_), planner.device("h200"), planner.workload(request)
            seen = []
            for _ in range(rounds):
                begin = time.process_time()
                found = estimate(model, device, workload)
                seen.append(time.process_time() - begin)
            operators = sum(len(stage.operators) for stage in found.stages.values())
            table.add_row(id_, request, f"{1e3 * statistics.median(seen):.2f}", str(operators))
    console.print(table)


if __name__ == "__main__":
    start_up(Console())
    growing(Console())
    loading(Console())
    estimating(Console())
    planning(Console())
    relations(Console())
    site(Console())
    growth(Console())
    serving(Console())
    scaling(Console())
