"""The commands of contributors: draft, check, run and verify entries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lvlm_atlas.cli.completion import ids_of, words_of
from lvlm_atlas.cli.options import (
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    Format,
    Listing,
    References,
    Root,
    root_of,
)

contribute = typer.Typer()
PANEL = "Contribute"


@contribute.command(rich_help_panel=PANEL)
def check(
    paths: Annotated[list[Path] | None, typer.Argument(help="Report only the faults of these files.")] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Repair what is certain, show what was changed, and report the rest.")
    ] = False,
    format_: Annotated[str, typer.Option("--format", "-f", help="text, json or github.")] = "text",
    root: Root = None,
) -> None:
    """Check every record: one line a fault, all faults in one run. Exit 0: none, 1: faults, 2: bad usage."""
    from lvlm_atlas.atlas.overlay import merged
    from lvlm_atlas.cli.faults import print_faults, repair_faults
    from lvlm_atlas.rules.check import check as run

    folder = root_of(root)
    only = [merged(folder, path) for path in paths or ()] or None
    if fix:
        repair_faults(folder, only)
        folder = root_of(root)
        only = [merged(folder, path) for path in paths or ()] or None
    faults = run(folder, only)
    print_faults(faults, format_, folder)
    if any(fault.level == "error" for fault in faults):
        raise typer.Exit(1)


def _rule_ids() -> tuple[str, ...]:
    from lvlm_atlas.rules.check import all_rules

    return tuple(rule.id for rule in all_rules())


@contribute.command(rich_help_panel=PANEL)
def rule(
    id_: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="Which rule, as `check` names it; default: list them.",
            autocompletion=words_of(_rule_ids),
        ),
    ] = None,
    format_: Format = Listing.table,
) -> None:
    """Explain a rule that `check` names: what it asks, why, an example that breaks it, the repair."""
    from lvlm_atlas.cli.rules import print_rule, rule_rows

    if id_ is None:
        from lvlm_atlas.cli.output import print_rows

        print_rows(list(rule_rows()), ("id", "level", "why"), format_)
    else:
        print_rule(id_)


@contribute.command(rich_help_panel=PANEL)
def new(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the new technique, such as my-method.")],
    family: Annotated[
        str | None, typer.Option(help="Family or subfamily; `lvlm-atlas terms family` lists them.")
    ] = None,
    acts_at: Annotated[
        list[str] | None,
        typer.Option("--acts-at", help="Where it acts; `lvlm-atlas terms position` lists them; repeatable."),
    ] = None,
    paper: Annotated[str | None, typer.Option(help="Key of its paper in papers.bib.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name, such as SnapKV; default: the id.")] = None,
    described: Annotated[bool, typer.Option("--described", help="An entry alone, without a reference to run.")] = False,
    system: Annotated[
        bool, typer.Option("--system", help="A serving system, or without --family a feature of engines.")
    ] = False,
    from_bib: Annotated[
        Path | None, typer.Option("--from-bib", help="BibTeX file from which its paper goes into papers.bib.")
    ] = None,
    root: Root = None,
) -> None:
    """Write the files of a new technique: entry, reference, test. `check` then says what to fill in.

    lvlm-atlas new fastv --name FastV --family token-compression --acts-at llm-layer --paper chen2024fastv
    """
    from lvlm_atlas.drafts.system import scaffold_system
    from lvlm_atlas.drafts.technique import scaffold
    from lvlm_atlas.fault import AtlasError

    if system and (acts_at or described):
        raise AtlasError("--system: a system acts at no position and has no reference; drop --acts-at and --described")
    if not system and not (family and acts_at):
        raise AtlasError("give --family and --acts-at, where the technique belongs and acts; or --system")
    folder = root_of(root)
    if system:
        written = scaffold_system(folder, id_, family=family, paper=paper, name=name, bib=from_bib)
    else:
        written = scaffold(
            folder, id_, family=family or "", acts_at=acts_at or [], paper=paper, name=name, described=described,
            bib=from_bib,
        )  # fmt: skip
    for path in written:
        typer.echo(f"wrote {path}")
    then = "" if described or system else f", then `lvlm-atlas smoke {id_}` and `lvlm-atlas verify {id_}`"
    typer.echo(f"next: fill in what `lvlm-atlas check` names{then}")


@contribute.command(rich_help_panel=PANEL)
def smoke(
    ids: References = None,
    device: DeviceOption = Device.cpu,
    dtype: DtypeOption = Dtype.float32,
    record: Annotated[bool, typer.Option("--record", help="Write a record under catalog/measurements.")] = False,
    time_s: Annotated[float, typer.Option("--time-s", min=1, help="Seconds that one technique may take.")] = 120,
    memory_gib: Annotated[float, typer.Option("--memory-gib", min=0.1, help="Memory that one may take.")] = 4,
    root: Root = None,
) -> None:
    """Run the references on the tiny LVLM and check what every reference must hold. Needs the torch extra."""
    from lvlm_atlas.cli.smoke import run_smoke

    failed = run_smoke(
        root_of(root), ids or [], device.value, dtype.value, record=record, time_s=time_s, memory_gib=memory_gib
    )
    if failed:
        raise typer.Exit(1)


@contribute.command(rich_help_panel=PANEL)
def verify(
    ids: References = None,
    device: DeviceOption = Device.cpu,
    dtype: DtypeOption = Dtype.float32,
    every: Annotated[bool, typer.Option("--all", help="A row for each run, with its setting and request.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Run them in pairs with all others, in both orders.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="REF", help="Only those that changed since a commit.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder that keeps finished pairs, so that an interrupted run goes on.")
    ] = Path("build/pairs"),
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Hold what references do against what their entries declare. Exit 0: all hold, 1: not. Needs the torch extra."""
    from lvlm_atlas.cli.pairs import run_pairs
    from lvlm_atlas.cli.verify import run_verify

    where = (root_of(root), ids or [], device.value, dtype.value, format_)
    failed = run_pairs(*where, since=since, out=out) if pairs else run_verify(*where, since=since, every=every)
    if failed:
        raise typer.Exit(1)


@contribute.command(rich_help_panel=PANEL)
def calibrate(
    *,
    device: DeviceOption = Device.cpu,
    dtype: DtypeOption = Dtype.float32,
    out: Annotated[
        Path, typer.Option("--out", help="Folder that keeps measured rows, so that an interrupted run goes on.")
    ] = Path("build/calibration"),
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware", "-d", help="The device's id, to tell shares of its peaks.", autocompletion=ids_of("device")
        ),
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write a record under catalog/calibrations.")] = False,
    fit: Annotated[
        Path | None, typer.Option("--fit", help="Derive laws from measured rows, and measure nothing.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option("--judge", help="Hold the runtimes against the published times of a file.")
    ] = None,
    refit: Annotated[
        str | None,
        typer.Option(
            "--refit",
            metavar="RUNTIME",
            help="Fit a runtime to the catalog's timings.",
            autocompletion=ids_of("runtime"),
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="With --judge: a row for each time.")] = False,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Time kernels here and derive their laws; or hold runtimes against published times. Exit 1: one beats the bound.

    lvlm-atlas calibrate --device cuda --dtype bfloat16 --hardware h100-sxm

    lvlm-atlas calibrate --judge catalog/timings/edge-llm-orin.yaml
    """
    from lvlm_atlas.fault import AtlasError
    from lvlm_atlas.planner.planner import Planner

    if sum(each is not None for each in (fit, judge, refit)) > 1:
        raise AtlasError("--fit, --judge and --refit are different questions; give one of them")
    folder = root_of(root)
    planner = Planner(folder)
    if judge is not None or refit is not None:
        from lvlm_atlas.cli.judge import run_judge, run_refit

        if judge is not None:
            run_judge(planner, judge, format_, every=every)
        elif refit is not None:
            run_refit(planner, refit, format_)
        return
    from lvlm_atlas.cli.kernels import run_fit, run_measure

    if fit is not None:
        run_fit(planner.atlas, fit, hardware, format_)
    else:
        run_measure(planner.atlas, folder, device.value, dtype.value, out, hardware, format_, record=record)


@contribute.command(rich_help_panel=PANEL)
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Print the schema of this command's JSON (estimate, plan, list, …) or of this kind of file.",
        ),
    ] = None,
    root: Root = None,
) -> None:
    """Write the JSON schemas by which editors complete and check the YAML files, or print one."""
    if name is not None:
        from lvlm_atlas.cli.contracts import schema_text

        typer.echo(schema_text(name, root_of(root)))
        return
    from lvlm_atlas.atlas.editor_schema import write_editor_schemas

    for path in write_editor_schemas(root_of(root)):
        typer.echo(f"wrote {path}")


model_app = typer.Typer(help="Add a model to the catalog.", no_args_is_help=True)
contribute.add_typer(model_app, name="model", rich_help_panel=PANEL)


@model_app.command("add")
def add_model(
    config: Annotated[Path, typer.Option("--from-config", help="The model's published config.json.")],
    preprocessor: Annotated[
        Path | None, typer.Option("--preprocessor", help="Its preprocessor_config.json: limits of pixels and tiles.")
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Id of the record; default: the configuration's name.")
    ] = None,
    root: Root = None,
) -> None:
    """Draft the record of a model from its configuration. What the files do not say is left open and named."""
    from lvlm_atlas.cli.model import add_model as add

    add(root_of(root), config, preprocessor, id_)
