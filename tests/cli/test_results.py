"""The command `results`: what it lists, in which formats, what it writes, and what it says when there is nothing."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from lvlm_atlas import load

ATLAS = load()
SHARED = ATLAS.results("fastv or divprune", benchmark="pope", model="qwen2.5-vl-7b")
NOT_OF_FASTV = next(
    row.measure
    for row in ATLAS.results()
    if row.kind == "benchmark" and not ATLAS.results("fastv", benchmark=row.measure)
)
"""A benchmark on which no source scores FastV."""


def test_programs_get_every_field_of_every_result(run) -> None:
    rows = json.loads(run("results", "-f", "json").out)
    assert len(rows) == len(ATLAS.results())
    assert rows[0].keys() == {"id", *vars(ATLAS.results()[0])}
    table = list(csv.DictReader(io.StringIO(run("results", "-f", "csv").out)))
    assert [float(row["value"]) for row in table] == [row["value"] for row in rows]


def test_the_options_narrow_what_is_listed(run) -> None:
    said = run("results", "fastv or divprune", "-b", "POPE", "-m", "Qwen2.5-VL-7B", "-f", "json")
    rows = json.loads(said.out)
    assert [(row["technique"], row["share_kept"]) for row in rows] == [
        ("divprune", 0.25), ("fastv", 0.25), ("divprune", 0.1), ("fastv", 0.1),
    ]  # fmt: skip
    assert [row["value"] for row in rows] == [row.value for row in SHARED]
    metrics = json.loads(run("results", "--metric", "ttft", "-f", "json").out)
    assert {row["measure"] for row in metrics} == {"ttft"}


def test_only_what_several_techniques_report_is_comparable(run) -> None:
    groups: dict[tuple[str, str], set[str]] = {}
    for row in json.loads(run("results", "--comparable", "-f", "json").out):
        groups.setdefault((row["measure"], row["model"]), set()).add(row["technique"])
    assert groups
    assert all(len(techniques) > 1 for techniques in groups.values())


@pytest.mark.parametrize("columns", ["60", "80"])
def test_a_narrow_table_breaks_no_number_and_tells_each_experiment(
    run, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = run("results").out
    assert max(map(len, out.splitlines())) <= int(columns)
    lines = run("results", "fastv", "-m", "llava-1.5-13b").out.splitlines()
    row = next(line for line in lines if "0.124 s" in line)
    assert row.split()[1:8] == ["25", "%", "0.124", "s", "0.203", "s", "61.08"]
    listed = " ".join(" ".join(lines[lines.index("Experiments") :]).split())
    assert "layer=2 keep_ratio=0.25; A100 80 GB; Tokens are dropped in place; chen2024fastv" in listed


def test_a_csv_file_holds_what_is_listed(run, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    said = run("results", "fastv", "--out", out)
    assert said.out == f"wrote {len(ATLAS.results('fastv'))} results to {out}\n"
    assert out.read_text("utf-8") == run("results", "fastv", "-f", "csv").out


def test_a_parquet_file_holds_numbers_as_numbers(run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "r.parquet"
    assert run("results", "tome or fastv", "--out", out).code == 0
    table = parquet.read_table(out)
    rows = ATLAS.results("tome or fastv")
    assert table["value"].to_pylist() == [row.value for row in rows]
    assert table["percent_of_baseline"].to_pylist() == [row.percent_of_baseline for row in rows]
    assert {"layer=3 keep_ratio=0.5", "r=13"} <= set(table["setting"].to_pylist())
    assert str(table.schema.field("tokens_kept").type) == "double"


def test_parquet_without_its_library_says_what_to_install(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = run("results", "--out", tmp_path / "r.parquet")
    assert said.code == 2
    assert "a Parquet file needs pyarrow" in said.err
    assert "lvlm-atlas[sweep]" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("-b", "popee"), 2, "did you mean 'pope'?"),
        (("--metric", "ttfft"), 2, "did you mean 'ttft'?"),
        (("-m", "llava-1.5"), 2, "did you mean 'llava-1.5-7b'?"),
        (("stage:nowhere",), 2, "stage is never 'nowhere'"),
        (("--out", "r.txt"), 2, "ends in neither .csv nor .parquet"),
        (("--out", "no/such/folder/r.csv"), 2, "cannot write no/such/folder/r.csv: no such file or directory"),
        (("fastv", "-b", NOT_OF_FASTV), 1, "no source reports such a result"),
    ],
)
def test_what_cannot_be_answered_says_why(run, arguments: tuple[str, ...], code: int, told: str) -> None:
    said = run("results", *arguments)
    assert (said.code, said.out) == (code, "")
    assert told in said.err


def test_a_sheet_shows_every_reported_number_with_its_source(run) -> None:
    text = " ".join(run("show", "look-m").out.split())
    assert "slidevqa 82.5 % (83.5 % without)" in text
    assert "kv-memory up to 80 % less" in text
    assert "[zhang2026survey, app. D.1, table 7]" in text


def test_what_the_lab_measured_is_never_mixed_with_what_sources_report(run) -> None:
    id_ = next(id_ for id_, curve in ATLAS.atlas.curves.items() if curve.tasks and ATLAS.results(id_))
    rows = json.loads(run("results", id_, "--measured", "-f", "json").out)
    assert rows
    assert all(row["evidence"] == "measured on the lab's model" for row in rows)
    assert all(id_ in row["techniques"] for row in rows)
    together = {row["id"] for row in rows if row["departure"] is not None}
    assert together == {each for each in ATLAS.atlas.stacks if id_ in each.split(".")}
    reported = json.loads(run("results", id_, "-f", "json").out)
    assert len(reported) == len(ATLAS.results(id_))
    assert all("evidence" not in row for row in reported)
    table = run("results", id_).out
    assert table.index("Experiments") < table.index("Measured on the lab's model, alone")
    assert "Measured" not in run("results", id_, "-m", reported[0]["model"]).out


def test_measured_results_take_no_option_of_reported_ones(run) -> None:
    said = run("results", "--measured", "-b", "gqa")
    assert said.code == 2
    assert "leave the other options out" in said.err
    bare = next(each.id for each in ATLAS if each.id not in ATLAS.atlas.curves)
    none = run("results", bare, "--measured")
    assert none.code == 1
    assert "measured nothing" in none.err
