"""`serve-sim --out`: every combination is a row that is kept as it is done."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lvlm_atlas.sweep.load_columns import COLUMNS

ASKED = (
    "serve-sim", "--model", "qwen2.5-vl-7b", "--device", "h100-sxm:2", "--rate", "2,4", "-n", "12", "--policy",
    "monolithic", "--policy", "e-pd", "--slo", "ttft=1s", "--grow", "2",
)  # fmt: skip


def test_every_policy_and_rate_is_a_row_and_one_that_is_missing_is_made_again(run, tmp_path: Path) -> None:
    out = tmp_path / "results"
    kept = ("--out", str(out), "--workers", "1")
    run(*ASKED, *kept)
    table = pq.read_table(out).sort_by("point")
    assert table.column_names == [column.name for column in COLUMNS]
    assert table["rate"].to_pylist() == [2.0, 4.0, 2.0, 4.0]
    assert [each.partition(":")[0] for each in table["policy"].to_pylist()] == ["monolithic"] * 2 + ["e-pd"] * 2
    printed = [*csv.DictReader(io.StringIO(run(*ASKED, "-f", "csv").out))]
    for name in ("ttft_s_p90", "goodput_s", "eta_scale"):
        assert table[name].to_pylist() == pytest.approx([float(row[name]) for row in printed], rel=1e-9), name

    before = {file.name: file.read_bytes() for file in out.glob("part-*")}
    (out / "part-000002.parquet").unlink()
    old = (out / "part-000001.parquet").stat().st_mtime_ns
    run(*ASKED, *kept)
    assert {file.name: file.read_bytes() for file in out.glob("part-*")} == before
    assert (out / "part-000001.parquet").stat().st_mtime_ns == old
    said = run("sql", "select name, meaning from sweep_columns where name = 'eta_scale'", "--data", str(out)).out
    assert "eta_scale" in said
    other = run(*ASKED, *kept, "--seed", "1")
    assert other.code == 2
    assert "holds a sweep over other points" in " ".join(other.err.split())
