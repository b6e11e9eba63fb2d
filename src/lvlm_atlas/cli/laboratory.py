"""The commands of the lab: fetch photographs, train small models on them, run every technique on these."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lvlm_atlas.cli.options import Device, DeviceOption, Format, Listing, References, Root, root_of

laboratory = typer.Typer()
PANEL = "Contribute"
lab_app = typer.Typer(help="What techniques cost in answers, on small models trained here.", no_args_is_help=True)
laboratory.add_typer(lab_app, name="lab", rich_help_panel=PANEL)


@lab_app.command("fetch")
def fetch(
    given: Annotated[
        Path | None, typer.Option("--from", help="Folder with packages that were downloaded before.")
    ] = None,
) -> None:
    """Fetch the photographs that the lab's tasks are made of, about 320 MB, and keep 29 MB. Needs the lab extra."""
    from lvlm_atlas.cli.lab import run_fetch

    run_fetch(given)


@lab_app.command("train")
def train(
    name: Annotated[str, typer.Argument(metavar="[DIALECT]", help="Dialect: llava or qwen2_5_vl.")] = "llava",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first weights and of all pictures.")] = 0,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Held-back samples of each task to judge by.")] = 200,
    out: Annotated[
        Path, typer.Option("--out", help="Folder that keeps the run, so that an interrupted one goes on.")
    ] = Path("build/training"),
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="Only this part of the model that is there, or `all` that it lacks."),
    ] = None,
    root: Root = None,
) -> None:
    """Train a small LVLM on photographs with things on them, then what techniques bring along for it: scorers, a draft.

    They are written under checkpoints/. Needs the lab extra.
    """
    from lvlm_atlas.cli.lab import run_train, run_train_parts

    if part:
        run_train_parts(root_of(root), name, seed, samples, [] if "all" in part else part, out)
    else:
        run_train(root_of(root), name, seed, samples, out)


@lab_app.command("run")
def run(
    ids: References = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Held-back samples of each task.")] = 64,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; may be given several times.")
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option("--checkpoint", help="Only this trained model; may be given several times.")
    ] = None,
    device: DeviceOption = Device.cpu,
    again: Annotated[bool, typer.Option("--again", help="Also those that have a curve on these models.")] = False,
    root: Root = None,
) -> None:
    """Run techniques alone over their main knob on the lab's tasks, and write a record of each under catalog/curves.

    An interrupted run goes on: what has a record is not run again.
    """
    from lvlm_atlas.cli.lab import run_curves

    if run_curves(root_of(root), ids or [], samples, task or [], checkpoint or [], device.value, again=again):
        raise typer.Exit(1)


@lab_app.command("stacks")
def stacks(
    ids: References = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Pairs at most, the most interesting first.")] = 200,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Held-back samples of each task.")] = 24,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; may be given several times.")
    ] = None,
    device: DeviceOption = Device.cpu,
    again: Annotated[bool, typer.Option("--again", help="Also those that have a record on these models.")] = False,
    root: Root = None,
) -> None:
    """Run techniques together, hold what they lose against the sum, and write a record of each under catalog/stacks.

    Runs the stacks of the planner's front and the most interesting pairs besides, or those of the techniques that are
    named. An interrupted run goes on: what has a record is not run again.
    """
    from lvlm_atlas.cli.joint import run_stacks

    if run_stacks(root_of(root), ids or [], limit, samples, task or [], device.value, again=again):
        raise typer.Exit(1)


@lab_app.command("show")
def show(
    ids: References = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; may be given several times.")
    ] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Show what techniques keep of the answers at each setting of their curves; json holds every number."""
    from lvlm_atlas import load
    from lvlm_atlas.cli.curves import COLUMNS, curve_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(curve_rows(load(root_of(root)), ids or [], task or [])), COLUMNS, format_)
