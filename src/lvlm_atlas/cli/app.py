"""The commands, by journey: browse and query, contribute, run, publish."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lvlm_atlas.cli import options as o
from lvlm_atlas.cli.options import Device, Dtype, Format, Listing, Root, named, opened, root_of

app = typer.Typer(
    name="lvlm-atlas",
    help="An executable knowledge base of efficient inference for large vision-language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BROWSE, PREDICT, CONTRIBUTE, PUBLISH = "Browse and query", "Predict", "Contribute", "Publish"


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"lvlm-atlas {version('lvlm-atlas')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command("list", rich_help_panel=BROWSE)
def list_(
    query: Annotated[str | None, typer.Argument(help="Only what this query finds.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List techniques, all or those that a query finds."""
    from lvlm_atlas.atlas.loader import load
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import TECHNIQUE_COLUMNS, technique_rows

    if query:
        atlas = opened(root)
        answer = atlas.query(query)
        records, found, why = atlas.atlas, [row.technique for row in answer.rows], answer.why_empty
    else:
        records = load(root_of(root))
        found, why = list(records.techniques.values()), "the catalog is empty"
    print_rows(technique_rows(records, found, format_), TECHNIQUE_COLUMNS, format_)
    if not found:
        typer.echo(why, err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id, former id, name or alias of a technique.")],
    json_: Annotated[bool, typer.Option("--json", help="Print the entry and its edges as JSON.")] = False,
    root: Root = None,
) -> None:
    """Show a technique: what its page says."""
    atlas = opened(root)
    technique = named(atlas, id_)
    if json_:
        import json

        from lvlm_atlas.cli.rows import edge_row, whole_row

        edges = [edge_row(edge) for edge in atlas.interactions(technique.id)]
        typer.echo(json.dumps({**whole_row(atlas.atlas, technique), "edges": edges}, indent=2, ensure_ascii=False))
        return
    from lvlm_atlas.cli.output import show as print_for_people
    from lvlm_atlas.cli.sheet import sheet

    print_for_people(sheet(atlas, technique))


@app.command(rich_help_panel=BROWSE)
def query(
    expression: Annotated[str, typer.Argument(help="Such as: relieves:decoding/memory and not training:finetune")],
    explain: Annotated[bool, typer.Option("--explain", help="Say why each row is there, with its evidence.")] = False,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Find techniques by fields and relations. Exit 0: rows, 1: none, 2: bad query.

    Fields compare (stage:prefilling, year>=2024), relations connect (composes-with(fastv), within(fastv, 2)),
    and, or, not and parentheses join them. `lvlm-atlas fields` lists all of them.
    """
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import TECHNIQUE_COLUMNS, reasons, technique_rows

    atlas = opened(root)
    answer = atlas.query(expression)
    rows = technique_rows(atlas.atlas, [row.technique for row in answer.rows], format_)
    if explain:
        why = {row.technique.id: reasons(row) for row in answer.rows}
        kind = "edges" if format_ in (Listing.json, Listing.jsonl) else "text"
        rows = [{**row, "because": why[row["id"]][kind]} for row in rows]
    print_rows(rows, ("id", "because") if explain else TECHNIQUE_COLUMNS, format_)
    if not rows:
        typer.echo(answer.why_empty, err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def fields(format_: Format = Listing.table, root: Root = None) -> None:
    """List the fields and relations that a query may use."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import grammar_rows

    print_rows(grammar_rows(opened(root).atlas), ("id", "meaning", "example"), format_)


@app.command(rich_help_panel=BROWSE)
def graph(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id, former id, name or alias of a technique.")],
    depth: Annotated[int, typer.Option(min=1, max=6, help="How many edges away.")] = 1,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Show how a technique is related to others: each edge with its reason and evidence."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import neighbour_row
    from lvlm_atlas.graph.neighbourhood import neighbourhood
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.planner.predicted import with_predictions

    atlas = with_predictions(Planner(root_of(root)))
    rows = [neighbour_row(neighbour) for neighbour in neighbourhood(atlas, named(atlas, id_).id, depth)]
    print_rows(rows, ("relation", "evidence", "reason", "source"), format_)
    if not rows:
        typer.echo(f"no interaction of {id_} is known; that does not mean that it is compatible with all", err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def models(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the models that can be estimated; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import MODEL_COLUMNS, model_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(model_rows(shelves(root_of(root)), id_)), MODEL_COLUMNS, format_)


@app.command(rich_help_panel=BROWSE)
def hardware(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the devices; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import DEVICE_COLUMNS, device_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(device_rows(shelves(root_of(root)), id_)), DEVICE_COLUMNS, format_)


@app.command(rich_help_panel=BROWSE)
def workloads(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the workloads; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import WORKLOAD_COLUMNS, workload_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(workload_rows(shelves(root_of(root)), id_)), WORKLOAD_COLUMNS, format_)


def _fields(value: bool) -> None:
    if value:
        from lvlm_atlas.cli.estimate import fields as rows
        from lvlm_atlas.cli.output import print_rows

        print_rows(list(rows()), ("id", "unit", "meaning"), Listing.table)
        raise typer.Exit


@app.command(rich_help_panel=PREDICT)
def estimate(
    model: o.ModelId,
    hardware: o.HardwareId,
    workload: o.WorkloadId = "single-image-chat",
    image: o.ImageSizes = None,
    images: o.ImageCount = None,
    video: o.Videos = None,
    text: o.Text = None,
    output: o.Output = None,
    batch: o.Batch = None,
    turns: o.Turns = None,
    tp: o.Tensor = 1,
    pp: o.Pipeline = 1,
    weight_dtype: o.WeightType = None,
    activation_dtype: o.ActivationType = None,
    kv_dtype: o.CacheType = None,
    attention: o.Attention = o.Kernel.fused,
    skip_unused_layers: o.SkipUnused = False,
    efficiency: o.Preset = "ideal",
    price: o.Price = None,
    stack: o.Stack = None,
    operators: Annotated[bool, typer.Option("--operators", help="Print every operator.")] = False,
    _: Annotated[bool, typer.Option("--fields", callback=_fields, is_eager=True, help="Explain the JSON.")] = False,
    format_: o.ReportFormat = o.Report.table,
    root: Root = None,
) -> None:
    """Predict time, memory and energy of a request, and what bounds them. Exit 2: bad input, or it does not fit.

    lvlm-atlas estimate --model qwen2.5-vl-7b --hardware h200 --image 1280x720 --images 20 --stack fastv
    """
    from lvlm_atlas.cli.asked import asked, deployed
    from lvlm_atlas.cli.estimate import print_estimate
    from lvlm_atlas.planner.planner import Planner

    planner = Planner(root_of(root))
    wanted = asked(planner, workload, image, images, video, text=text, output=output, batch=batch, turns=turns)
    deployment = deployed(
        tp=tp, pp=pp, weight_dtype=weight_dtype, activation_dtype=activation_dtype, kv_dtype=kv_dtype,
        materialised=attention is o.Kernel.materialised, skip_unused_layers=skip_unused_layers, efficiency=efficiency,
        price=price,
    )  # fmt: skip
    chosen, device = planner.model(model), planner.device(hardware)
    found = planner.estimate(chosen, device, wanted, stack=stack or (), deployment=deployment)
    plain = planner.estimate(chosen, device, wanted, deployment=deployment) if stack else None
    print_estimate(found, plain, format_, operators=operators)


@app.command(rich_help_panel=PREDICT)
def plan(
    model: o.ModelId,
    hardware: o.HardwareId,
    goal: Annotated[str, typer.Option("--goal", "-g", help="ttft, tpot, total, memory, cost or energy.")],
    workload: o.WorkloadId = "single-image-chat",
    image: o.ImageSizes = None,
    images: o.ImageCount = None,
    video: o.Videos = None,
    text: o.Text = None,
    output: o.Output = None,
    batch: o.Batch = None,
    turns: o.Turns = None,
    tp: o.Tensor = 1,
    pp: o.Pipeline = 1,
    weight_dtype: o.WeightType = None,
    activation_dtype: o.ActivationType = None,
    kv_dtype: o.CacheType = None,
    attention: o.Attention = o.Kernel.fused,
    skip_unused_layers: o.SkipUnused = False,
    efficiency: o.Preset = "ideal",
    price: o.Price = None,
    slo: Annotated[
        list[str] | None, typer.Option("--slo", help="A limit, such as ttft=0.5: s, GB, USD or J; repeatable.")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="A metric that counts beside the goal; repeatable.")
    ] = None,
    training: Annotated[
        str | None, typer.Option("--training", help="What may be trained at most: none, calibration, finetune, …")
    ] = None,
    most: Annotated[int, typer.Option("--max", min=1, max=6, help="Techniques in a stack, at most.")] = 3,
    risk: Annotated[
        str, typer.Option("--risk", help="Accept at most: exact, reported, lossy, or unknown compatibility.")
    ] = "unknown",
    require: Annotated[str | None, typer.Option("--require", help="Every stack has one that this query finds.")] = None,
    exclude: Annotated[str | None, typer.Option("--exclude", help="No stack has one that this query finds.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--try", help="A technique at this setting, not its default: fastv:keep_ratio=0.25; repeatable."),
    ] = None,
    milder: Annotated[bool, typer.Option("--milder", help="Try each technique at half its strength too.")] = False,
    format_: o.ReportFormat = o.Report.table,
    root: Root = None,
) -> None:
    """Find the stacks of techniques that bring a goal down most, and say why the others lost.

    lvlm-atlas plan --model qwen2.5-vl-7b --hardware h200 --workload images-20 --goal ttft --slo tpot=0.003
    """
    from lvlm_atlas.cli.asked import asked, deployed
    from lvlm_atlas.cli.plan import print_plan
    from lvlm_atlas.planner.metric import limits
    from lvlm_atlas.planner.planner import Planner

    planner = Planner(root_of(root))
    request = asked(planner, workload, image, images, video, text=text, output=output, batch=batch, turns=turns)
    deployment = deployed(
        tp=tp, pp=pp, weight_dtype=weight_dtype, activation_dtype=activation_dtype, kv_dtype=kv_dtype,
        materialised=attention is o.Kernel.materialised, skip_unused_layers=skip_unused_layers, efficiency=efficiency,
        price=price,
    )  # fmt: skip
    found = planner.plan(
        model, hardware, request, goal=goal, slo=limits(slo or ()), also=also or (), training=training,
        max_techniques=most, risk=risk, require=require, exclude=exclude, settings=setting or (), milder=milder,
        deployment=deployment,
    )  # fmt: skip
    print_plan(found, format_)


@app.command(rich_help_panel=PREDICT)
def interactions(
    one: Annotated[str, typer.Argument(metavar="A", help="A technique, such as fastv:keep_ratio=0.5.")],
    two: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    model: o.ModelId,
    hardware: o.HardwareId = "h200",
    workload: o.WorkloadId = "single-image-chat",
    image: o.ImageSizes = None,
    images: o.ImageCount = None,
    video: o.Videos = None,
    text: o.Text = None,
    output: o.Output = None,
    batch: o.Batch = None,
    turns: o.Turns = None,
    tp: o.Tensor = 1,
    pp: o.Pipeline = 1,
    weight_dtype: o.WeightType = None,
    activation_dtype: o.ActivationType = None,
    kv_dtype: o.CacheType = None,
    attention: o.Attention = o.Kernel.fused,
    skip_unused_layers: o.SkipUnused = False,
    efficiency: o.Preset = "ideal",
    price: o.Price = None,
    format_: o.ReportFormat = o.Report.table,
    root: Root = None,
) -> None:
    """Predict what two techniques buy together, against what each buys alone, and why. Exit 2: they conflict.

    lvlm-atlas interactions fastv kivi --model qwen2.5-vl-7b --hardware h200 --workload images-20
    """
    from lvlm_atlas.cli.asked import asked, deployed
    from lvlm_atlas.cli.interactions import print_pair
    from lvlm_atlas.planner.planner import Planner

    planner = Planner(root_of(root))
    request = asked(planner, workload, image, images, video, text=text, output=output, batch=batch, turns=turns)
    deployment = deployed(
        tp=tp, pp=pp, weight_dtype=weight_dtype, activation_dtype=activation_dtype, kv_dtype=kv_dtype,
        materialised=attention is o.Kernel.materialised, skip_unused_layers=skip_unused_layers, efficiency=efficiency,
        price=price,
    )  # fmt: skip
    print_pair(planner.interactions(one, two, model, hardware, request, deployment=deployment), format_)


@app.command(rich_help_panel=CONTRIBUTE)
def check(
    paths: Annotated[list[Path] | None, typer.Argument(help="Report only the faults of these files.")] = None,
    format_: Annotated[str, typer.Option("--format", "-f", help="text, json or github.")] = "text",
    root: Root = None,
) -> None:
    """Check every record: one line a fault, all faults in one run. Exit 0: none, 1: faults, 2: bad usage."""
    from lvlm_atlas.cli.faults import print_faults
    from lvlm_atlas.rules.check import check as run

    folder = root_of(root)
    faults = run(folder, paths or None)
    print_faults(faults, format_, folder)
    if any(fault.level == "error" for fault in faults):
        raise typer.Exit(1)


@app.command(rich_help_panel=CONTRIBUTE)
def new(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the new technique, such as my-method.")],
    family: Annotated[str, typer.Option(help="Family or subfamily; `lvlm-atlas terms family` lists them.")],
    acts_at: Annotated[str, typer.Option("--acts-at", help="Extension point that it uses.")],
    paper: Annotated[str, typer.Option(help="Key of its paper in papers.bib.")],
    name: Annotated[str | None, typer.Option(help="Its name; default: the id.")] = None,
    root: Root = None,
) -> None:
    """Write the files of a new technique: entry, reference, test. `check` then says what to fill in."""
    from lvlm_atlas.scaffold import scaffold

    for path in scaffold(opened(root), id_, family=family, acts_at=acts_at, paper=paper, name=name):
        typer.echo(f"wrote {path}")
    typer.echo(
        f"next: fill in what `lvlm-atlas check` names, then `lvlm-atlas smoke {id_}` and `lvlm-atlas verify {id_}`"
    )


model_app = typer.Typer(help="Add a model to the catalog.", no_args_is_help=True)
app.add_typer(model_app, name="model", rich_help_panel=CONTRIBUTE)


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


@app.command(rich_help_panel=BROWSE)
def terms(
    vocabulary: Annotated[str | None, typer.Argument(help="Which vocabulary; default: name them all.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the vocabularies, or the terms of one with their definitions."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import term_rows

    print_rows(term_rows(opened(root).atlas, vocabulary), ("id", "name", "definition"), format_)


@app.command(rich_help_panel=CONTRIBUTE)
def smoke(
    ids: Annotated[list[str] | None, typer.Argument(help="Techniques; default: all that have a reference.")] = None,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.cpu,
    dtype: Annotated[Dtype, typer.Option(help="Type of weights and activations.")] = Dtype.float32,
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


@app.command(rich_help_panel=CONTRIBUTE)
def verify(
    ids: Annotated[list[str] | None, typer.Argument(help="Techniques; default: all that have a reference.")] = None,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.cpu,
    dtype: Annotated[Dtype, typer.Option(help="Type of weights and activations.")] = Dtype.float32,
    every: Annotated[bool, typer.Option("--all", help="A row for each run, with its setting and request.")] = False,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Hold what references do against what their entries declare. Exit 0: all hold, 1: not. Needs the torch extra."""
    from lvlm_atlas.cli.verify import run_verify

    if run_verify(root_of(root), ids or [], device.value, dtype.value, format_, every=every):
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def run(
    checkpoint: Annotated[Path, typer.Option(help="Folder of a published model: config.json, safetensors.")],
    prompt: Annotated[str, typer.Option(help="What to ask about the images.")],
    image: Annotated[list[Path], typer.Option(help="An image file; repeat it for several.")],
    stack: Annotated[
        list[str] | None, typer.Option(help="A technique, such as fastv:layer=2,keep_ratio=0.5; repeat it, in order.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens after which the answer ends.")] = 64,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.cpu,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of the weights; default: the checkpoint's.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Answer with a published checkpoint, with a stack of techniques and without. Needs the transformers extra."""
    from lvlm_atlas.cli.run import run_checkpoint

    run_checkpoint(
        opened(root),
        checkpoint,
        image,
        prompt,
        stack or [],
        max_new_tokens=max_new_tokens,
        device=device.value,
        dtype=dtype.value if dtype else None,
        listing=format_,
    )


@app.command(rich_help_panel=PREDICT)
def sweep(
    model: Annotated[list[str], typer.Option(help="An id, a pattern such as 'qwen*', or all; repeat it for several.")],
    hardware: Annotated[list[str], typer.Option(help="The same of devices.")],
    workload: Annotated[
        list[str] | None, typer.Option(help="The same of workloads; default: single-image-chat.")
    ] = None,
    stack: Annotated[
        list[str] | None, typer.Option(help="none, or techniques such as fastv:keep_ratio=0.25|0.5+kivi; repeat it.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Requests together, such as 1,2,4; default: the workload's.")
    ] = None,
    tp: Annotated[str | None, typer.Option(help="Devices that share each layer, such as 1,2.")] = None,
    pp: Annotated[str | None, typer.Option(help="Groups of layers on devices of their own, such as 1,2.")] = None,
    weight_dtype: Annotated[str | None, typer.Option(help="Types of the weights, such as bf16,fp8.")] = None,
    activation_dtype: Annotated[str | None, typer.Option(help="Types of the activations.")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Types of the cache.")] = None,
    attention: Annotated[str | None, typer.Option(help="fused, materialised, or both with a comma.")] = None,
    efficiency: Annotated[str | None, typer.Option(help="Presets: ideal, typical, survey.")] = None,
    price: Annotated[list[str] | None, typer.Option(help="DEVICE=USD for an hour; repeat it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for Parquet files, or one file NAME.parquet.")] = Path("results"),
    engine: Annotated[str, typer.Option(help="local: processes here; dask: a cluster.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: as many as cores.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the results of an earlier sweep there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on the way.")] = False,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Estimate all combinations into a Parquet table that `lvlm-atlas sql` reads. Needs the sweep extra.

    Run it again to go on after an interruption. A combination that cannot be is a row whose `error` says why.
    """
    from lvlm_atlas.cli.sweep import axes, numbers, run_sweep

    run_sweep(
        out,
        format_,
        quiet=quiet,
        prices=price or [],
        models=model,
        hardware=hardware,
        **({"workloads": workload} if workload else {}),
        stacks=stack or ["none"],
        batches=numbers("--batch", batch),
        deployments=axes(
            tp=tp, pp=pp, weight_dtype=weight_dtype, activation_dtype=activation_dtype, kv_dtype=kv_dtype,
            attention=attention, efficiency=efficiency,
        ),
        root=root if root is None else root_of(root),
        engine=engine,
        workers=workers,
        scheduler=scheduler,
        restart=restart,
    )  # fmt: skip


@app.command(rich_help_panel=PREDICT)
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT, such as: select model, min(ttft_s) from sweep group by 1")],
    data: Annotated[Path | None, typer.Option(help="What a sweep wrote; default: results.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Query a sweep's results with DuckDB's SQL. Exit 0: rows, 1: none, 2: bad query. Needs the sweep extra.

    The view sweep holds the results, and `from sweep_columns` explains its columns; the tables techniques, models,
    hardware and workloads are the catalog.
    """
    from lvlm_atlas.cli.sql import run_sql

    if not run_sql(query, data, root if root is None else root_of(root), format_):
        typer.echo("no rows", err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=CONTRIBUTE)
def schema(root: Root = None) -> None:
    """Write the JSON schemas by which editors complete and check the YAML files."""
    from lvlm_atlas.atlas.editor_schema import write_editor_schemas
    from lvlm_atlas.atlas.root import authored_root

    for path in write_editor_schemas(authored_root(root_of(root))):
        typer.echo(f"wrote {path}")


@app.command(rich_help_panel=PUBLISH)
def export(
    format_: Annotated[str, typer.Option("--format", "-f", help="json, graphml, mermaid or dot.")] = "json",
    root: Root = None,
) -> None:
    """Print the knowledge graph for other tools."""
    from lvlm_atlas.fault import AtlasError, suggestion
    from lvlm_atlas.graph.exports import EXPORTS

    if format_ not in EXPORTS:
        raise AtlasError(f"--format: no format {format_!r}; {suggestion(format_, EXPORTS)}")
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.planner.predicted import with_predictions

    sys.stdout.write(EXPORTS[format_](with_predictions(Planner(root_of(root)))))


@app.command(rich_help_panel=PUBLISH)
def build(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the site to.")] = Path("build/site"),
    root: Root = None,
) -> None:
    """Build the site. Needs the site extra."""
    from lvlm_atlas.site.build import build as run

    typer.echo(f"built {run(opened(root), out)}")


@app.command(rich_help_panel=PUBLISH)
def serve(
    port: Annotated[int, typer.Option(envvar="PORT", min=0, max=65535, help="0 takes a free one.")] = 8000,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the site to.")] = Path("build/site"),
    root: Root = None,
) -> None:
    """Build the site and serve it on this machine. Needs the site extra."""
    from lvlm_atlas.site.build import build as run
    from lvlm_atlas.site.serve import serve as start

    start(run(opened(root), out), port)
