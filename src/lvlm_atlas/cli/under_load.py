"""The command that predicts a server under load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lvlm_atlas.cli.completion import ids_of, stacks
from lvlm_atlas.cli.option_group import expand_groups
from lvlm_atlas.cli.options import Report, ReportFormat, Root, root_of
from lvlm_atlas.cli.request_options import DeploymentOptions, ModelId

under_load = typer.Typer()


@under_load.command("serve-sim", rich_help_panel="Predict")
@expand_groups
def serve_sim(
    *,
    model: ModelId,
    hardware: Annotated[
        str,
        typer.Option(
            "--hardware",
            "--device",
            "-d",
            help="Id or alias of a device, and how many there are: h100-sxm:8.",
            autocompletion=ids_of("device"),
        ),
    ],
    rate: Annotated[
        str | None, typer.Option("--rate", help="Requests a second: 4, 1,2,4, or 1..32 for each doubling up to there.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            help="Layout of the server, such as monolithic or epd:2,2,4; epd:best with --capacity; repeatable.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="Id of a workload, its share of the requests behind an @: images-20:images=5@0.2; repeatable.",
            autocompletion=ids_of("workload"),
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="File of requests in place of a workload: JSON lines or CSV.")
    ] = None,
    traffic: Annotated[
        str | None,
        typer.Option("--traffic", help="Id of a published distribution of lengths, in place of a workload."),
    ] = None,
    image_size: Annotated[
        str, typer.Option("--image-size", help="Size of images where a trace or --traffic says none.")
    ] = "1280x720",
    stack: Annotated[
        list[str] | None,
        typer.Option(
            "--stack", "-s", help="none, or techniques such as fastv+kivi; repeat it to compare.", autocompletion=stacks
        ),
    ] = None,
    slo: Annotated[
        list[str] | None, typer.Option("--slo", help="A limit that a request must keep: ttft, tpot, total; repeatable.")
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests", "-n", min=1, max=10**7, help="How many arrive; default: 1000, or a trace's."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of arrivals and lengths.")] = 0,
    burstiness: Annotated[
        float, typer.Option("--burstiness", help="0: evenly, below 1: in bursts, 1: Poisson, above: more evenly.")
    ] = 1.0,
    spread: Annotated[
        float, typer.Option("--spread", help="Coefficient of variation of text and answers; 0: all alike.")
    ] = 0.0,
    reuse: Annotated[float, typer.Option("--reuse", help="Share of images that came before.")] = 0.0,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, help="Requests that clients have under way at most, in place of --rate."),
    ] = None,
    grow: Annotated[
        int | None,
        typer.Option("--grow", min=2, max=64, help="Say what is left at so many times the rate and devices (η)."),
    ] = None,
    capacity: Annotated[
        bool, typer.Option("--capacity", help="Find the highest rate within --slo, in place of --rate.")
    ] = False,
    attain: Annotated[
        float, typer.Option("--attain", help="Share of requests that must keep the limits, for --capacity.")
    ] = 0.9,
    link_gb_s: Annotated[
        float | None, typer.Option("--link", help="GB/s into an instance; default: that of the device's links.")
    ] = None,
    link_latency: Annotated[
        float, typer.Option("--link-latency", help="Seconds of a transfer beside its bytes.")
    ] = 0.0,
    host_image: Annotated[
        float, typer.Option("--host-image", help="Seconds of the host for an image or frame, beside the runtime's.")
    ] = 0.0,
    host_workers: Annotated[
        int, typer.Option("--host-workers", min=1, help="Requests in preparation at once in each front process.")
    ] = 8,
    timeline: Annotated[
        Path | None, typer.Option("--timeline", help="Write a picture (SVG) of who waits where in the last run.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep each row in a folder of Parquet files, or NAME.parquet.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Who computes for --out: local, processes here, or dask.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes for --out; default: as many as cores.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what another --out left there.")] = False,
    deployment: DeploymentOptions,
    explain: Annotated[bool, typer.Option("--explain", help="Say what is taken for granted.")] = False,
    format_: ReportFormat = Report.table,
    root: Root = None,
) -> None:
    """Predict a server under load: latencies, goodput, use, energy, cost. Needs the serving extra.

    Each combination of policy, stack and rate is a row. Exit 1: with --slo, no row keeps it for 90 % of the requests.
    With --out the rows go where `lvlm-atlas sql` reads them; run it again to go on after an interruption.

    lvlm-atlas serve-sim --model qwen2.5-vl-7b --device h100-sxm:8 --policy monolithic --policy epd --rate 8..32
    """
    from lvlm_atlas.cli.serve_question import Question
    from lvlm_atlas.cli.serve_sim import print_loads

    question = Question(
        model=model, hardware=hardware, rate=rate, policies=policy or ["monolithic"], workloads=workload, trace=trace,
        traffic=traffic,
        image_size=image_size, stacks=stack or ["none"], slo=slo or [], requests=requests, seed=seed,
        burstiness=burstiness, spread=spread, reuse=reuse, concurrency=concurrency, grow=grow,
        capacity=capacity, attain=attain, link_gb_s=link_gb_s,
        link_latency_s=link_latency, host_image_s=host_image,
        host_workers=host_workers, timeline=timeline, deployment=deployment,
    )  # fmt: skip
    if out is not None:
        from lvlm_atlas.cli.serve_sweep import sweep_loads

        sweep_loads(
            question, out, root=root_of(root), engine=engine, workers=workers, scheduler=scheduler, restart=restart
        )  # fmt: skip
        return
    print_loads(question, root_of(root), format_, explain=explain)
