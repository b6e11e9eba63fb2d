"""`lvlm-atlas sql`: rows in any format, and one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lvlm_atlas.sweep import sweep

SQL = "select model, count(*) as n, min(ttft_s) as ttft_s from sweep where fits group by 1 order by 1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a small sweep."""
    models = ["qwen2.5-vl-7b", "qwen2.5-vl-3b"]
    return sweep(tmp_path_factory.mktemp("sql") / "results", models=models, hardware=["h200"], workers=1).out


def test_it_prints_rows_in_each_format(run: Callable[..., object], data: Path) -> None:
    said = {kind: run("sql", SQL, "--data", data, "--format", kind) for kind in ("table", "json", "csv", "md", "jsonl")}
    assert {each.code for each in said.values()} == {0}
    rows = json.loads(said["json"].out)
    assert [(row["model"], row["n"]) for row in rows] == [("qwen2.5-vl-3b", 1), ("qwen2.5-vl-7b", 1)]
    assert rows[0]["ttft_s"] > 0
    assert [json.loads(line) for line in said["jsonl"].out.splitlines()] == rows
    assert said["csv"].out.splitlines()[1] == f"qwen2.5-vl-3b,1,{rows[0]['ttft_s']}"
    for kind in ("table", "md"):
        assert f"{rows[0]['ttft_s']:.4g}" in said[kind].out
        assert "0000000" not in said[kind].out
    assert run("sql", SQL, "--data", data, "-f", "ids").out.split() == ["qwen2.5-vl-3b", "qwen2.5-vl-7b"]


def test_any_value_that_duckdb_knows_can_be_json(run: Callable[..., object]) -> None:
    sql = "select 1.5 as d, 'nan'::double as n, date '2026-11-22' as t, {'a': [0.5]} as s, 2::hugeint as h, null as z"
    assert json.loads(run("sql", sql, "-f", "json").out) == [
        {"d": 1.5, "n": None, "t": "2026-11-22", "s": {"a": [0.5]}, "h": 2, "z": None}
    ]


def test_results_are_looked_for_where_sweep_puts_them(
    run: Callable[..., object], data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(data.parent)
    assert run("sql", "from sweep").code == 0
    monkeypatch.chdir(tmp_path)
    said = run("sql", "from sweep")
    assert said.code == 2
    assert "there are no results at results/" in said.err
    assert run("sql", "select id from models").code == 0


def test_no_rows_are_said(run: Callable[..., object], data: Path) -> None:
    said = run("sql", "from sweep where model = 'x'", "--data", data, "-f", "jsonl")
    assert (said.code, said.out, said.err) == (1, "", "no rows\n")


@pytest.mark.parametrize(
    ("sql", "said"),
    [("selec 1", "syntax error"), ("select x from sweep", "not found"), ("drop view sweep", "one query")],
)
def test_a_wrong_query_is_one_line(run: Callable[..., object], data: Path, sql: str, said: str) -> None:
    found = run("sql", sql, "--data", data)
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert len(found.err.splitlines()) == 1


def test_a_missing_extra_is_named(run: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    found = run("sql", "select 1")
    assert found.code == 2
    hint = "install it with: pip install 'lvlm-atlas[sweep]', in a checkout '.[sweep]'"
    assert found.err == f"lvlm-atlas: sql needs duckdb; {hint}\n"


def test_a_reader_that_leaves_early_is_no_fault(data: Path) -> None:
    command = f"{sys.executable} -m lvlm_atlas sql 'from range(200000)' -f jsonl | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ('{"range": 0}\n', "")


def test_it_ends_without_complaints_of_duckdb() -> None:
    command = [sys.executable, "-m", "lvlm_atlas", "sql", "select 1 as a", "-f", "csv"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"a\n1\n", b"")
