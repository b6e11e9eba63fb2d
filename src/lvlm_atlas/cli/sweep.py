"""Runs a sweep with a progress bar and says what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.sweep.engines import GO_ON
from lvlm_atlas.sweep.grid import deployments
from lvlm_atlas.sweep.runner import Summary, sweep

EVERY_S = 10.0
"""Seconds between lines where standard error is no terminal."""
COLUMNS = ("out", "points", "estimated", "do_not_fit", "refused")


def run_sweep(out: Path, listing: Listing, *, quiet: bool, prices: Sequence[str], **arguments: Any) -> None:
    """Run, and print a line on the results; for the arguments see `sweep.runner.sweep`.

    Raises:
        AtlasError: as `sweep` does, or a price is none.
    """
    try:
        with shown(quiet=quiet) as progress:
            summary = sweep(out, price_usd_h=_prices(prices), progress=progress, **arguments)
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {GO_ON}", err=True)
        raise
    if not quiet:
        for stack, why in summary.refused_stacks.items():
            typer.echo(f"refused {stack}: {why}", err=True)
    print_rows([_row(summary)], COLUMNS, listing)


def numbers(option: str, text: str | None) -> list[int]:
    """Whole numbers from `1,2,4`.

    Raises:
        AtlasError: one is none.
    """
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise AtlasError(f"{option} is {text!r}; give whole numbers such as 1,2,4") from None


def axes(
    *,
    tp: str | None,
    pp: str | None,
    attention: str | None,
    efficiency: str | None,
    runtime: str | None,
    root: Path | None,
    **dtypes: str | None,
) -> tuple[Deployment, ...]:
    """Deployments with every combination of the values, each text holding some with commas between.

    Raises:
        AtlasError: a value is none that a deployment may have.
    """
    planner = Planner(root)
    paces = [planner.paced(Deployment(), efficiency=name) for name in words(efficiency)]
    paces += [planner.paced(Deployment(), runtime=name) for name in words(runtime)]
    plain = deployments(
        tensor_parallel=numbers("--tp", tp),
        pipeline_parallel=numbers("--pp", pp),
        attention=words(attention),
        **{name: words(text) for name, text in dtypes.items()},
    )
    return tuple(
        replace(each, efficiency=pace.efficiency, runtime=pace.runtime)
        for each in plain
        for pace in paces or (Deployment(),)
    )


def words(text: str | None) -> list[str]:
    """The words between the commas of a text."""
    return [word for word in (part.strip() for part in (text or "").split(",")) if word]


def _prices(texts: Sequence[str]) -> dict[str, float]:
    """Prices by device, each given once."""
    prices: dict[str, float] = {}
    for device, price in map(_price, texts):
        if device in prices:
            raise AtlasError(f"--price: {device} has a price already; leave one out")
        prices[device] = price
    return prices


def _price(text: str) -> tuple[str, float]:
    device, _, price = text.partition("=")
    try:
        return device.strip(), float(price)
    except ValueError:
        raise AtlasError(f"--price {text!r} is no price; write DEVICE=USD, for an hour, such as h200=3.5") from None


def _row(summary: Summary) -> dict[str, Any]:
    return {
        "id": str(summary.out),
        "out": str(summary.out),
        "points": summary.points,
        "estimated": summary.points - summary.refused - summary.misfits,
        "do_not_fit": summary.misfits,
        "refused": summary.refused,
    }


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Shows how far it is: a bar on a terminal, else a line now and then."""
    if quiet:
        yield lambda done, points: None  # noqa: ARG005
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        cells = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*cells, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("points", total=None)
            yield lambda done, points: bar.update(task, completed=done, total=points)
    else:
        yield _lines()


def _lines() -> Callable[[int, int], None]:
    last = time.monotonic()

    def say(done: int, points: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            typer.echo(f"{done:,} of {points:,} points", err=True)

    return say
