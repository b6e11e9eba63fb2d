"""SQL over results and catalog."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.sweep import Summary
from lvlm_atlas.sweep.columns import COLUMNS
from lvlm_atlas.sweep.query import CATALOG, ask
from lvlm_atlas.sweep.results import Results

Swept = tuple[Summary, pa.Table]


def test_the_view_holds_every_row_in_order(swept: Swept) -> None:
    answer = ask("from sweep", swept[0].out)
    assert answer.columns == tuple(swept[1].column_names)
    assert [row[0] for row in answer.rows] == list(range(64))


def test_it_answers_what_the_rows_say(swept: Swept) -> None:
    summary, table = swept
    answer = ask("select model, min(ttft_s) as ttft_s from sweep where fits group by 1 order by 1", summary.out)
    rows = [row for row in table.to_pylist() if row["fits"]]
    models = sorted({row["model"] for row in rows})
    assert answer.rows == [(m, min(row["ttft_s"] for row in rows if row["model"] == m)) for m in models]


def test_techniques_of_a_stack_can_be_asked_for(swept: Swept) -> None:
    answer = ask("select distinct stack from sweep where list_contains(techniques, 'kivi') order by 1", swept[0].out)
    assert answer.rows == [("fastv:keep_ratio=0.25+kivi",), ("fastv:keep_ratio=0.5+kivi",)]


def test_an_unfinished_sweep_answers_with_what_is_there(swept: Swept, tmp_path: Path) -> None:
    unfinished = Results(tmp_path / "out.parquet")
    unfinished.folder.mkdir()
    (unfinished.folder / "part-000000.parquet").write_bytes((swept[0].out / "part-000000.parquet").read_bytes())
    assert ask("select count(*) from sweep", tmp_path / "out.parquet").rows == [(7,)]


def test_the_catalog_can_be_joined(swept: Swept) -> None:
    sql = (
        "select distinct m.id, h.memory_gb, w.output_tokens from sweep s join models m on m.id = s.model "
        "join hardware h on h.id = s.hardware join workloads w on w.id = s.workload where h.id = 'l4' order by all"
    )
    assert {row[0] for row in ask(sql, swept[0].out).rows} == {"qwen2.5-vl-7b", "deepseek-vl2-tiny"}
    assert ask("select training from techniques where id = 'fastv'").rows == [("none",)]
    assert {row[0] for row in ask("show tables").rows} == {*CATALOG, "sweep_columns"}


def test_columns_are_explained() -> None:
    answer = ask("from sweep_columns")
    assert [row[0] for row in answer.rows] == [column.name for column in COLUMNS]
    assert all(row[2] for row in answer.rows)


def test_columns_of_one_name_are_told_apart() -> None:
    assert ask("select 1 as a, 2 as a").columns == ("a", "a_2")


@pytest.mark.parametrize(
    "sql",
    [
        "drop view sweep", "copy sweep to 'x.csv'", "create table x as from sweep", "attach 'x.db'",
        "select 1; select 2", "explain analyze copy sweep to 'x.csv'", "set threads = 1", "", "-- nothing",
    ],
)  # fmt: skip
def test_only_one_query_that_reads_is_taken(
    swept: Swept, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AtlasError, match="sql takes one query that reads"):
        ask(sql, swept[0].out)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("selec 1", "syntax error"),
        ("select ttft from sweep", "ttft_s"),
        ("select model::int from sweep", "Could not convert"),
        ("from 'missing.parquet'", "Cannot access file"),
    ],
)
def test_a_wrong_query_is_one_line(swept: Swept, sql: str, said: str) -> None:
    with pytest.raises(AtlasError, match=said) as caught:
        ask(sql, swept[0].out)
    assert "\n" not in str(caught.value)


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="there are no results at"):
        ask("from sweep", tmp_path)


def test_every_record_of_the_catalog_is_a_row(checkout: Path) -> None:
    for kind in CATALOG:
        files = [f for f in (checkout / "catalog" / kind).rglob("*.yaml") if "moved:" not in f.read_text("utf-8")]
        assert len(ask(f"from {kind}").rows) == len(files)
