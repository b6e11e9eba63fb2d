"""Runs a sweep: deals its points in parts, keeps each finished part, and goes on where an earlier run stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import Deployment

# The extra [sweep] is imported once something is to be written.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from lvlm_atlas.sweep.results import Results

ENGINES = ("local", "dask")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished sweep left behind. All its numbers are predicted."""

    out: Path
    """The folder of Parquet files, or the file."""
    points: int
    """Rows."""
    refused: int
    """Rows without numbers, since the request, the deployment or the stack cannot be."""
    misfits: int
    """Rows of what does not fit in device memory."""
    refused_stacks: Mapping[str, str]
    """Stacks whose techniques cannot be together, with the reason."""


def sweep(
    out: Path | str,
    *,
    models: Iterable[str],
    hardware: Iterable[str],
    workloads: Iterable[str] = ("single-image-chat",),
    stacks: Iterable[str] = ("none",),
    batches: Iterable[int] = (),
    deployments: Iterable[Deployment] = (),
    price_usd_h: Mapping[str, float] | None = None,
    root: Path | str | None = None,
    engine: Literal["local", "dask"] = "local",
    workers: int | None = None,
    scheduler: str | None = None,
    restart: bool = False,
    part_points: int = 500,
    progress: Callable[[int, int], object] | None = None,
) -> Summary:
    """Estimate every combination of models, hardware, workloads, batches, deployments and stacks.

    Rows are described by `columns.COLUMNS`, in the order of nested loops over the arguments, the same whatever the
    engine and however often the run was interrupted. A combination that cannot be is a row whose `error` says why.
    Call it again with the same arguments to go on after an interruption: finished parts are kept.

    Processes are started with `spawn`: in a script, call this below `if __name__ == "__main__":`.

    Args:
        out: a folder for Parquet files, or one file if it ends in `.parquet`.
        models: ids, patterns such as `qwen*`, or `all`.
        hardware: the same of devices.
        workloads: the same of workloads.
        stacks: `none`, or techniques joined by `+` with values parted by `|`: `fastv:keep_ratio=0.25|0.5+kivi`.
        batches: requests processed together; none: as each workload says.
        deployments: ways to run the model; none: released types, one device, ideal kernels. `grid.deployments` makes
            all combinations of some values.
        price_usd_h: price of a device for an hour, by device.
        root: folder of the catalog; None: the one that comes with the package.
        engine: `local`: processes of this machine; `dask`: a cluster.
        workers: processes of the local engine; None: as many as there are cores.
        scheduler: address of the Dask cluster's scheduler.
        restart: whether to discard another sweep's results at `out`.
        part_points: points of a part, which is what a killed run loses at most for each worker.
        progress: told how many points are done, and of how many, at the start and after each part.

    Raises:
        AtlasError: a name is unknown, a number outside its range, an extra is missing, or `out` holds something else.
    """
    need("pyarrow", "a sweep needs")
    from lvlm_atlas.sweep.grid import grid as named
    from lvlm_atlas.sweep.results import Results
    from lvlm_atlas.sweep.stacks import label
    from lvlm_atlas.sweep.work import Bench, Job

    check_engine(engine, workers, scheduler, part_points)
    folder = Path(root).resolve() if root is not None else None
    planner = Planner(folder)
    grid = named(
        planner, models=models, hardware=hardware, workloads=workloads, stacks=stacks, batches=batches,
        deployments=deployments, price_usd_h=price_usd_h,
    )  # fmt: skip
    bench = Bench(grid, planner)
    definition = {
        "format": "lvlm-atlas-sweep/1",
        "version": version("lvlm-atlas"),
        "evidence": "predicted",
        "points": grid.points,
        "part_points": part_points,
        "source_sha256": bench.digest,
        "grid": asdict(grid),
    }
    job = Job(grid, folder, part_points, bench.digest).pickled()
    results = Results(Path(out))
    with keeping(
        results, job, definition, workers=workers, scheduler=scheduler, restart=restart, progress=progress
    ):  # fmt: skip
        return _summary(results, {label(stack): why for stack, why in bench.refused.items()})


@contextmanager
def keeping(
    results: Results, job: bytes, definition: Mapping[str, Any], *, workers: int | None = None,
    scheduler: str | None = None, restart: bool = False, progress: Callable[[int, int], object] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Compute the parts of a job that are missing, keep each as it is done, and lend the whole table.

    Args:
        results: where the table lies.
        job: the pickled `part.Task`.
        definition: what the table covers and comes from, its `points` and `part_points` among it.
        workers: processes of this machine; None: as many as there are cores.
        scheduler: address of a Dask cluster's scheduler; None: processes of this machine.
        restart: whether to discard other results there.
        progress: told how many points are done, and of how many, at the start and after each part.

    Raises:
        AtlasError: another process writes there, or results of something else are there.
    """
    points, each = definition["points"], definition["part_points"]
    manifest = json.loads(json.dumps(definition))  # as it will be read
    with results.writing(manifest, restart=restart):
        missing = results.missing(-(-points // each))

        def tell(left: int) -> None:
            if progress:
                progress(max(0, points - left * each), points)

        tell(len(missing))
        with closing(_computed(job, missing, workers, scheduler)) as computed:
            for done, (index, content) in enumerate(computed, start=1):
                results.keep(index, content)
                tell(len(missing) - done)
        results.join(manifest)
        yield


def need(module: str, who: str, extra: str = "sweep") -> None:
    """Make sure that a library of an extra is there.

    Args:
        module: the library.
        who: who needs it, as in `a sweep needs`.
        extra: the extra that brings it.

    Raises:
        AtlasError: it is not.
    """
    try:
        import_module(module)
    except ImportError:
        raise AtlasError(
            f"{who} {module}; install it with: pip install 'lvlm-atlas[{extra}]', in a checkout '.[{extra}]'"
        ) from None


def check_engine(engine: str, workers: int | None, scheduler: str | None, part_points: int) -> None:
    """Make sure that who computes is said once.

    Raises:
        AtlasError: an engine is unknown or lacks what it needs, or a number is none.
    """
    if engine not in ENGINES:
        raise AtlasError(f"no engine {engine!r}; {suggestion(engine, ENGINES)}")
    if engine == "dask" and scheduler is None:
        raise AtlasError("--engine dask needs --scheduler ADDRESS, such as tcp://127.0.0.1:8786")
    if engine == "dask" and workers is not None:
        raise AtlasError("--workers is for --engine local; a Dask cluster has its own")
    if engine == "local" and scheduler is not None:
        raise AtlasError("--scheduler is for --engine dask; add that, or leave it out")
    if engine == "dask":
        need("distributed", "--engine dask needs", "dask")
    for name, number in (("workers", workers), ("part_points", part_points)):
        if number is not None and number < 1:
            raise AtlasError(f"{name} is {number}; give a whole number of 1 or more")


def _computed(
    job: bytes, parts: list[int], workers: int | None, scheduler: str | None
) -> Generator[tuple[int, bytes], None, None]:
    from lvlm_atlas.sweep.engines import dask, local

    if not parts:
        return
    yield from dask(job, iter(parts), scheduler) if scheduler else local(job, iter(parts), workers)


def _summary(results: Results, stacks: Mapping[str, str]) -> Summary:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    points = refused = fitting = 0
    for file in results.files:
        fits = pq.read_table(file, columns=["fits"])["fits"]
        points += len(fits)
        refused += fits.null_count
        fitting += pc.sum(fits).as_py() or 0
    return Summary(
        out=results.out, points=points, refused=refused, misfits=points - refused - fitting, refused_stacks=stacks
    )
