"""The commands that predict: one request, the best stack, two techniques, a whole grid, and questions about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lvlm_atlas.cli.completion import ids_of, queries, stacks, words_of
from lvlm_atlas.cli.option_group import expand_groups
from lvlm_atlas.cli.options import Format, Listing, Report, ReportFormat, Root, root_of
from lvlm_atlas.cli.request_options import DeploymentOptions, HardwareId, ModelId, RequestOptions, Stack, presets

predict = typer.Typer()
PANEL = "Predict"


def _metrics() -> tuple[str, ...]:
    from lvlm_atlas.planner.metric import METRICS

    return tuple(METRICS)


def _risks() -> tuple[str, ...]:
    from lvlm_atlas.planner.risk import RISKS

    return tuple(RISKS)


def _fields(value: bool) -> None:
    if value:
        from lvlm_atlas.cli.estimate import fields as rows
        from lvlm_atlas.cli.output import print_rows

        print_rows(list(rows()), ("id", "unit", "meaning"), Listing.table)
        raise typer.Exit


@predict.command(rich_help_panel=PANEL)
@expand_groups
def estimate(
    *,
    model: ModelId,
    hardware: HardwareId,
    request: RequestOptions,
    deployment: DeploymentOptions,
    stack: Stack = None,
    operators: Annotated[bool, typer.Option("--operators", help="Print every operator.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what is taken for granted.")] = False,
    _: Annotated[bool, typer.Option("--fields", callback=_fields, is_eager=True, help="Explain the JSON.")] = False,
    format_: ReportFormat = Report.table,
    root: Root = None,
) -> None:
    """Predict time, memory and energy of a request, and what bounds them. Exit 2: bad input, or it does not fit.

    lvlm-atlas estimate --model qwen2.5-vl-7b --hardware h200 --image 1280x720 --images 20 --stack fastv
    """
    from lvlm_atlas.cli.estimate import print_estimate
    from lvlm_atlas.planner.planner import Planner

    planner = Planner(root_of(root))
    subject = planner.model(model), planner.device(hardware), request.to_workload(planner)
    setup = deployment.to_deployment(planner)
    estimated = planner.estimate(*subject, stack=stack or (), deployment=setup)
    plain = planner.estimate(*subject, deployment=setup) if stack else None
    print_estimate(estimated, plain, format_, root=root_of(root), operators=operators, explain=explain)


@predict.command(rich_help_panel=PANEL)
@expand_groups
def plan(
    *,
    model: ModelId,
    hardware: HardwareId,
    goal: Annotated[
        str,
        typer.Option(
            "--goal",
            "-g",
            help="What to improve: ttft, tpot, total, memory, cost, energy, concurrency or throughput.",
            autocompletion=words_of(_metrics),
        ),
    ],
    request: RequestOptions,
    deployment: DeploymentOptions,
    slo: Annotated[
        list[str] | None, typer.Option("--slo", help="A limit, such as ttft=500ms or memory=40GB; repeatable.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also", help="A metric that counts beside the goal; repeatable.", autocompletion=words_of(_metrics)
        ),
    ] = None,
    training: Annotated[
        str | None, typer.Option("--training", help="What may be trained at most: none, calibration, finetune, …")
    ] = None,
    most: Annotated[int, typer.Option("--max", min=1, max=6, help="Techniques in a stack, at most.")] = 3,
    risk: Annotated[
        str,
        typer.Option(
            "--risk",
            help="Accept at most: exact, reported, lossy, or unknown compatibility.",
            autocompletion=words_of(_risks),
        ),
    ] = "unknown",
    require: Annotated[
        str | None, typer.Option("--require", help="Every stack has one that this query finds.", autocompletion=queries)
    ] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="No stack has one that this query finds.", autocompletion=queries)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            help="A technique at this setting, not its default: fastv:keep_ratio=0.25; repeatable.",
            autocompletion=stacks,
        ),
    ] = None,
    milder: Annotated[bool, typer.Option("--milder", help="Try each technique at half its strength too.")] = False,
    described: Annotated[
        bool, typer.Option("--described", help="Search techniques too that no reference runs.")
    ] = False,
    quality: Annotated[
        float | None,
        typer.Option(
            "--keep-quality", help="Compare at equal quality: each keeps this share of answers, by its curve."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Whose answers: a task of the lab; default: all.")] = None,
    format_: ReportFormat = Report.table,
    root: Root = None,
) -> None:
    """Find the stacks of techniques that bring a goal down most, and why the others lost. Exit 1: no limit is kept.

    lvlm-atlas plan --model qwen2.5-vl-7b --hardware h200 --workload images-20 --goal ttft --slo tpot=0.006
    """
    from lvlm_atlas.cli.plan import print_plan
    from lvlm_atlas.planner.metric import limits
    from lvlm_atlas.planner.planner import Planner

    planner = Planner(root_of(root))
    best = planner.plan(
        model, hardware, request.to_workload(planner), goal=goal, slo=limits(slo or ()), also=also or (),
        training=training, max_techniques=most, risk=risk, require=require, exclude=exclude, settings=setting or (),
        milder=milder, described=described, keep_quality=quality, task=task,
        deployment=deployment.to_deployment(planner, with_limits=bool(slo)),
    )  # fmt: skip
    print_plan(best, format_, root=root_of(root))


@predict.command(rich_help_panel=PANEL)
@expand_groups
def interactions(
    *,
    one: Annotated[
        str, typer.Argument(metavar="A", help="A technique, such as fastv:keep_ratio=0.5.", autocompletion=stacks)
    ],
    two: Annotated[str, typer.Argument(metavar="B", help="Another.", autocompletion=stacks)],
    model: ModelId,
    hardware: HardwareId = "h200",
    request: RequestOptions,
    deployment: DeploymentOptions,
    format_: ReportFormat = Report.table,
    root: Root = None,
) -> None:
    """Predict what two techniques buy together, against what each buys alone, and why. Exit 2: they conflict.

    lvlm-atlas interactions fastv kivi --model qwen2.5-vl-7b --hardware h200 --workload images-20
    """
    from lvlm_atlas.cli.interactions import print_pair
    from lvlm_atlas.planner.planner import Planner

    planner = Planner(root_of(root))
    workload, setup = request.to_workload(planner), deployment.to_deployment(planner)
    pair = planner.interactions(one, two, model, hardware, workload, deployment=setup)
    print_pair(pair, format_, root=root_of(root))


@predict.command(rich_help_panel=PANEL)
def sweep(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="An id, a pattern such as 'qwen*', or all; repeat it for several.",
            autocompletion=ids_of("model"),
        ),
    ],
    hardware: Annotated[
        list[str], typer.Option("--hardware", "-d", help="The same of devices.", autocompletion=ids_of("device"))
    ],
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="The same of workloads, with parts replaced: images-20:images=5; default: single-image-chat.",
            autocompletion=ids_of("workload"),
        ),
    ] = None,
    stack: Annotated[
        list[str] | None,
        typer.Option(
            "--stack",
            "-s",
            help="none, or techniques such as fastv:keep_ratio=0.25|0.5+kivi; repeat it.",
            autocompletion=stacks,
        ),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Requests together, such as 1,2,4; default: the workload's.")
    ] = None,
    tp: Annotated[str | None, typer.Option(help="Devices that share each layer, such as 1,2.")] = None,
    pp: Annotated[str | None, typer.Option(help="Groups of layers on devices of their own, such as 1,2.")] = None,
    weight_dtype: Annotated[
        str | None, typer.Option(help="Types of weights: bf16,fp8,awq,llm=int4-g128+head=fp8.")
    ] = None,
    activation_dtype: Annotated[str | None, typer.Option(help="Types of the activations.")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Types of the cache.")] = None,
    attention: Annotated[str | None, typer.Option(help="fused, materialised, or both with a comma.")] = None,
    efficiency: Annotated[
        str | None, typer.Option(help="Presets: ideal, typical, survey.", autocompletion=words_of(presets))
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Software in place of a preset, such as vllm,transformers.", autocompletion=ids_of("runtime")
        ),
    ] = None,
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
            attention=attention, efficiency=efficiency, runtime=runtime, root=root,
        ),
        root=root if root is None else root_of(root),
        engine=engine,
        workers=workers,
        scheduler=scheduler,
        restart=restart,
    )  # fmt: skip


@predict.command(rich_help_panel=PANEL)
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
