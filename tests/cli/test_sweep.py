"""`lvlm-atlas sweep`: a line about the results, reasons on standard error, 130 when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = ("sweep", "--model", "qwen2.5-vl-7b", "--hardware", "h200,l4", "--workers", 1)


def test_the_results_are_summed_up(run: Callable[..., object], tmp_path: Path) -> None:
    stacks = ("--stack", "none", "--stack", "fastv:keep_ratio=0.25|0.5+kivi", "--stack", "look-m+xattention")
    said = run(*SMALL, *stacks, "--batch", "1,2", "--tp", "1,2", "--out", tmp_path / "r.parquet", "-f", "json")
    assert said.code == 0
    (row,) = json.loads(said.out)
    assert (row["points"], row["estimated"], row["do_not_fit"], row["refused"]) == (32, 24, 0, 8)
    assert row["out"] == str(tmp_path / "r.parquet")
    assert said.err.startswith("refused look-m+xattention: ")
    assert len(said.err.splitlines()) == 1


def test_a_finished_sweep_is_not_done_again(run: Callable[..., object], tmp_path: Path) -> None:
    first, second = (run(*SMALL, "--out", tmp_path / "results") for _ in range(2))
    assert first == second
    other = run(*SMALL, "--out", tmp_path / "results", "--batch", 2)
    assert other.code == 2
    assert "holds a sweep over other points" in other.err
    assert run(*SMALL, "--out", tmp_path / "results", "--batch", 2, "--restart").code == 0


def test_runtimes_are_points_beside_presets_and_are_told_apart(run: Callable[..., object], tmp_path: Path) -> None:
    paces = ("--runtime", "vllm,transformers", "--efficiency", "ideal")
    assert run(*SMALL, *paces, "--out", tmp_path / "r.parquet").code == 0
    asked = "select distinct efficiency, runtime from sweep order by runtime"
    said = run("sql", asked, "--data", tmp_path / "r.parquet", "-f", "json")
    rows = [(row.get("efficiency"), row.get("runtime")) for row in json.loads(said.out)]
    assert sorted(rows, key=str) == sorted([("ideal", None), (None, "transformers"), (None, "vllm")], key=str)


def test_quiet_says_nothing_on_the_way(run: Callable[..., object], tmp_path: Path) -> None:
    assert run(*SMALL, "--stack", "look-m+xattention", "--quiet", "--out", tmp_path / "results").err == ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--model", "qwen2.5-vl-7bb"), "did you mean 'qwen2.5-vl-7b'?"),
        (("--hardware", "h2000"), "no device 'h2000'"),
        (("--workload", "images-2"), "did you mean 'images-20'?"),
        (("--stack", "fastw"), "did you mean 'fastv'?"),
        (("--stack", "fastv:keep_ratoi=0.5"), "did you mean 'keep_ratio'?"),
        (("--stack", "fastv:keep_ratio=0.5|7"), "keep_ratio"),
        (("--stack", "fastv:keep_ratio"), "write name=value"),
        (("--batch", "1,two"), "--batch is '1,two'"),
        (("--batch", "0"), "batch is 0"),
        (("--tp", "-1"), "tensor_parallel is -1"),
        (("--kv-dtype", "fp7"), "no type of numbers 'fp7'"),
        (("--attention", "fusde"), "give fused or materialised"),
        (("--efficiency", "idael"), "did you mean 'ideal'?"),
        (("--price", "h200"), "write DEVICE=USD"),
        (("--price", "h200=nan"), "price of h200 is nan"),
        (("--engine", "dusk"), "did you mean 'dask'?"),
        (("--engine", "dask"), "--scheduler"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., object], tmp_path: Path, wrong: tuple[str, str], said: str) -> None:
    found = run("sweep", "--model", "qwen2.5-vl-7b", "--hardware", "l4", *wrong, "--out", tmp_path / "results")
    assert found.code == 2
    assert said in found.err
    assert len(found.err.splitlines()) == 1
    assert found.out == ""
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "extra"), [("pyarrow", "sweep"), ("distributed", "dask")])
def test_a_missing_extra_is_named(
    run: Callable[..., object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    cluster = ("--engine", "dask", "--scheduler", "tcp://127.0.0.1:9")
    found = run("sweep", "--model", "qwen2.5-vl-7b", "--hardware", "l4", *cluster, "--out", tmp_path / "results")
    assert found.code == 2
    assert found.err.endswith(f"pip install 'lvlm-atlas[{extra}]', in a checkout '.[{extra}]'\n")
    assert len(found.err.splitlines()) == 1


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_it_with_130_and_a_line(tmp_path: Path) -> None:
    out = tmp_path / "results"
    everything = ("--model", "qwen2.5-vl-*", "--hardware", "all", "--workload", "all", "--batch", "1,2,3,4,5,6,7,8")
    process = subprocess.Popen(
        [sys.executable, "-m", "lvlm_atlas", "sweep", *everything, "--out", out],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not any(out.glob("part-*")) and time.monotonic() < end:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        said = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    *progress, last = said[1].splitlines()  # on a slow machine it has told how far it is
    assert (said[0], last) == ("", "interrupted: what is finished is kept, and the same command goes on from there")
    assert all(line.endswith(" points") for line in progress), progress
    while alive(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(process.pid)
    assert not any(out.glob("*.tmp"))


def alive(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_sweep_writes_no_spreadsheet_and_says_how_to_get_one(run, tmp_path: Path) -> None:
    said = run("sweep", "--model", "qwen2.5-vl-7b", "--hardware", "h200", "--out", tmp_path / "s.xlsx")
    assert said.code == 2
    assert "lvlm-atlas sql 'from sweep' -f csv > s.csv" in said.err
    assert not [*tmp_path.iterdir()]
