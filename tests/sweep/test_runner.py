"""A sweep's rows: right, the same whoever computes them, and never lost."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.contract import contract
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.sweep import Summary, sweep
from lvlm_atlas.sweep.columns import COLUMNS, POINT
from lvlm_atlas.sweep.engines import local
from lvlm_atlas.sweep.results import MANIFEST, Results

Read = Callable[[Path], pa.Table]
Swept = tuple[Summary, pa.Table]

PROGRAM = """
import json, sys
from lvlm_atlas.sweep import sweep
sweep(sys.argv[1], **json.loads(sys.argv[2]))
"""


def rows_where(table: pa.Table, **wanted: object) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


def test_every_point_is_a_row_in_order(swept: Swept) -> None:
    summary, table = swept
    assert table["point"].to_pylist() == list(range(64))
    assert summary.points == 64
    assert table.column_names == [column.name for column in COLUMNS]


def test_a_row_says_what_the_planner_says(swept: Swept) -> None:
    stack = "fastv:keep_ratio=0.25+kivi"
    (row,) = rows_where(
        swept[1], model="qwen2.5-vl-7b", hardware="h200-sxm", workload="images-20", stack=stack, batch=1
    )
    found = contract(Planner().estimate("qwen2.5-vl-7b", "h200", "images-20", stack=stack.split("+")))
    assert row["ttft_s"] == found["ttft_s"]
    assert row["decoding_intensity"] == found["stages"]["decoding"]["intensity"]
    assert row["prefilling_bound"] == found["stages"]["prefilling"]["bound"]
    assert row["tokens_vision"] == found["tokens"]["vision"]
    assert row["kv_vision_byte"] == found["kv_vision_byte"]
    assert row["techniques"] == ["fastv", "kivi"]
    assert (row["fits"], row["error"]) == (True, None)


def test_what_cannot_be_is_a_row_with_the_reason(swept: Swept) -> None:
    summary, table = swept
    for row in table.to_pylist():
        assert (row["error"] is None) == (row["fits"] is True)
        if row["fits"] is None:
            assert {name for name, value in row.items() if value is not None} <= {c.name for c in POINT} | {"error"}
    video = rows_where(table, model="deepseek-vl2-tiny", workload="video-60s", stack="none")
    assert video
    assert all("takes no video" in row["error"] for row in video)
    conflict = rows_where(table, stack="look-m+xattention")
    assert len(conflict) == 16
    assert all("cannot share a stack" in row["error"] for row in conflict)
    misfit = rows_where(table, model="qwen2.5-vl-7b", hardware="l4", batch=64, workload="images-20", stack="none")
    assert [row["error"].startswith("does not fit: Qwen2.5-VL-7B needs ") for row in misfit] == [True]
    assert misfit[0]["ttft_s"] > 0
    assert set(summary.refused_stacks) == {"look-m+xattention"}
    assert summary.misfits == sum(row["fits"] is False for row in table.to_pylist())
    assert summary.refused == sum(row["fits"] is None for row in table.to_pylist())


def test_deployments_and_prices_reach_the_rows(tmp_path: Path, read: Read) -> None:
    ways = [Deployment(tensor_parallel=2, kv_dtype="fp8"), Deployment(price_usd_h=1.0)]
    arguments = {"models": ["qwen2.5-vl-7b"], "hardware": ["h200", "l4"], "deployments": ways}
    table = read(sweep(tmp_path / "out", **arguments, price_usd_h={"h200": 3.6}, workers=1).out)
    assert table["tensor_parallel"].to_pylist() == [2, 1, 2, 1]
    assert table["kv_dtype"].to_pylist() == ["fp8", None, "fp8", None]
    assert table["price_usd_h"].to_pylist() == [3.6, 3.6, None, 1.0]
    first = table.to_pylist()[0]
    assert first["cost_usd"] == pytest.approx(first["total_s"] / 1000 * 2)


def test_units_and_meanings_travel_with_the_table(swept: Swept) -> None:
    schema = swept[1].schema
    assert schema.metadata[b"evidence"] == b"predicted"
    assert all(field.metadata[b"doc"] for field in schema)


def test_two_processes_write_the_rows_of_one(small: dict[str, Any], swept: Swept, tmp_path: Path, read: Read) -> None:
    assert read(sweep(tmp_path / "out", **small, workers=2).out).equals(swept[1], check_metadata=True)


def test_one_file_holds_the_same_rows(small: dict[str, Any], swept: Swept, tmp_path: Path, read: Read) -> None:
    out = tmp_path / "out.parquet"
    first = sweep(out, **small)
    assert pq.read_table(out).equals(swept[1])
    assert list(tmp_path.iterdir()) == [out]
    when = out.stat().st_mtime_ns
    assert sweep(out, **small) == first
    assert out.stat().st_mtime_ns == when


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_a_dask_cluster_writes_the_same_rows(
    cluster: str, small: dict[str, Any], swept: Swept, tmp_path: Path, read: Read
) -> None:
    summary = sweep(tmp_path / "out", **small, engine="dask", scheduler=cluster)
    assert read(summary.out).equals(swept[1], check_metadata=True)


def test_a_sweep_begun_here_goes_on_on_a_cluster(
    cluster: str, small: dict[str, Any], swept: Swept, tmp_path: Path, read: Read
) -> None:
    out = shutil.copytree(swept[0].out, tmp_path / "out")
    for part in ("part-000003.parquet", "part-000009.parquet"):
        (out / part).unlink()
    done: list[int] = []
    sweep(out, **small, engine="dask", scheduler=cluster, progress=lambda points, _: done.append(points))
    assert (done[0], done[-1]) == (50, 64)
    assert read(out).equals(swept[1], check_metadata=True)


def test_a_cluster_that_loses_all_its_workers_ends_the_run_with_a_line(long: dict[str, Any], tmp_path: Path) -> None:
    from distributed import LocalCluster

    del long["workers"]
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        lost = partial(cluster.scale, 0)
        with pytest.raises(AtlasError, match=r"has lost .* all its workers; what is finished is kept"):
            sweep(
                tmp_path / "out", **long, engine="dask", scheduler=cluster.scheduler_address,
                progress=lambda done, _: lost() if done else None,
            )  # fmt: skip


def test_of_two_who_begin_at_once_one_writes(tmp_path: Path) -> None:
    def write(out: Path, start: threading.Barrier) -> bool:
        start.wait()
        try:
            with Results(out).writing({"grid": {}, "part_points": 1}):
                time.sleep(0.01)
        except AtlasError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            start = threading.Barrier(2)
            assert any(pool.map(write, [tmp_path / str(number)] * 2, [start] * 2))


def test_a_scheduler_that_does_not_answer_is_one_line(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="no Dask scheduler answers there") as caught:
        sweep(tmp_path / "out", **small, engine="dask", scheduler="tcp://127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.fixture
def long(small: dict[str, Any]) -> dict[str, Any]:
    """A sweep of some seconds, in many parts."""
    return {**small, "batches": list(range(1, 41)), "part_points": 32, "workers": 1}


@contextmanager
def started(out: Path, arguments: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that sweeps, once it has finished a part; killed at the end if it still runs."""
    command = [sys.executable, "-c", PROGRAM, str(out), json.dumps(arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 60
            while not any(out.glob("part-*")) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            assert process.poll() is None
            yield process
        finally:
            process.kill()


def ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def test_a_killed_run_loses_nothing_finished(long: dict[str, Any], tmp_path: Path, read: Read) -> None:
    out = tmp_path / "out"
    with started(out, long) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=20)
    finished = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*")}
    assert 0 < len(finished) < 40
    assert ended(workers)  # nobody is left to compute for nobody
    sweep(out, **long)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished
    whole = read(sweep(tmp_path / "whole", **{**long, "workers": 2}).out)
    assert whole.num_rows == 1280
    assert read(out).equals(whole, check_metadata=True)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_leaves_whole_parts_only(long: dict[str, Any], tmp_path: Path, read: Read) -> None:
    out = tmp_path / "out"
    with started(out, long) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert ended(workers)
    names = {path.name for path in out.iterdir()}
    assert names == {MANIFEST} | {f"part-{index:06d}.parquet" for index in range(len(names) - 1)}
    assert read(out)["point"].to_pylist() == list(range(32 * (len(names) - 1)))


def test_a_worker_that_is_killed_ends_the_run_with_a_line(long: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def kill(done: int, points: int) -> None:
        if done:
            for child in psutil.Process().children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()

    with pytest.raises(AtlasError, match="a worker process was ended from outside"):
        sweep(out, **long, progress=kill)
    assert any(out.glob("part-*"))


@pytest.fixture
def catalog(tmp_path: Path, checkout: Path) -> Path:
    """A copy of the catalog that may be changed."""
    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, tmp_path / "copy" / name)
    shutil.copy(checkout / "papers.bib", tmp_path / "copy")
    return tmp_path / "copy"


def test_results_of_another_catalog_are_not_mixed_in(catalog: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"models": ["qwen2.5-vl-7b"], "hardware": ["l4"], "root": catalog, "workers": 1}
    out = tmp_path / "out"
    before = sweep(out, **arguments)
    device, other = catalog / "catalog/hardware/l4.yaml", catalog / "catalog/hardware/l40s.yaml"
    other.write_text(other.read_text("utf-8").replace("bandwidth_gb_s: 864", "bandwidth_gb_s: 865"), "utf-8")
    assert sweep(out, **arguments) == before  # what the sweep does not name may change
    device.write_text(device.read_text("utf-8").replace("bandwidth_gb_s: 300", "bandwidth_gb_s: 301"), "utf-8")
    with pytest.raises(AtlasError, match=r"another version of the catalog or of the engine; .*--restart"):
        sweep(out, **arguments)
    assert sweep(out, **arguments, restart=True).points == 1


def test_results_over_other_points_are_not_mixed_in(small: dict[str, Any], swept: Swept) -> None:
    for changed in ({"batches": [1, 2]}, {"part_points": 8}):
        with pytest.raises(AtlasError, match="holds a sweep over other points; give another --out"):
            sweep(swept[0].out, **{**small, **changed})


def test_parts_that_are_missing_are_counted_where_the_manifest_says_how_many(swept: Swept, tmp_path: Path) -> None:
    out = shutil.copytree(swept[0].out, tmp_path / "out")
    there, every = Results(out).parts
    assert there == every > 1
    (out / "part-000000.parquet").unlink()
    assert Results(out).parts == (every - 1, every)
    for manifest in ({}, {"points": "x", "part_points": 1}, {"points": 3, "part_points": 0}):
        (out / MANIFEST).write_text(json.dumps(manifest))
        assert Results(out).parts == (0, 0)


def test_what_no_sweep_wrote_is_left_alone(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    file = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    for out in (tmp_path, file):
        with pytest.raises(AtlasError, match="holds no sweep's results"):
            sweep(out, **small, restart=True)
    with pytest.raises(AtlasError, match=r"cannot write .*notes\.txt: file exists"):
        sweep(tmp_path / "notes.txt", **small)
    with pytest.raises(AtlasError, match=r"cannot write .*out: not a directory"):
        sweep(tmp_path / "notes.txt" / "out", **small)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "mine.parquet"}


def test_a_run_that_ended_before_its_manifest_is_no_obstacle(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f"_{MANIFEST}.tmp").write_text("half", "utf-8")
    assert sweep(out, models=["qwen2.5-vl-7b"], hardware=["l4"], workers=1).points == 1
    assert {path.name for path in out.iterdir()} == {MANIFEST, "part-000000.parquet"}


def test_two_sweeps_do_not_write_to_one_place(small: dict[str, Any], tmp_path: Path) -> None:
    with (
        Results(tmp_path / "out").writing({"grid": {}, "part_points": 1}),
        pytest.raises(AtlasError, match="another sweep is writing"),
    ):
        sweep(tmp_path / "out", **small)


def test_a_worker_with_another_catalog_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    from lvlm_atlas.sweep.grid import grid
    from lvlm_atlas.sweep.work import Job

    axes = grid(Planner(), models=["qwen2.5-vl-7b"], hardware=["l4"], workloads=["images-20"])
    job = Job(axes, None, 10, "the digest of something else").pickled()
    with pytest.raises(AtlasError, match="a worker has another version"):
        list(local(job, iter([0]), 1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "dusk"}, "did you mean 'dask'"),
        ({"engine": "dask"}, "needs --scheduler"),
        ({"engine": "dask", "scheduler": "x", "workers": 2}, "--workers is for --engine local"),
        ({"scheduler": "x"}, "--scheduler is for --engine dask"),
        ({"workers": 0}, "workers is 0"),
        ({"part_points": -1}, "part_points is -1"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    small: dict[str, Any], tmp_path: Path, given: dict[str, object], said: str
) -> None:
    with pytest.raises(AtlasError, match=said):
        sweep(tmp_path / "out", **{**small, **given})


def test_who_comes_second_leaves_the_folder_of_the_first(small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    lock = os.open(out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # another run that has written nothing yet
    try:
        with pytest.raises(AtlasError, match="another sweep is writing"):
            sweep(out, **small)
        assert out.is_dir()
    finally:
        os.close(lock)
