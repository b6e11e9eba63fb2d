"""Answers SQL over the results of a sweep and over the catalog. Nothing is ever written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.sweep.columns import COLUMNS, Column
from lvlm_atlas.sweep.results import Results

CATALOG = ("techniques", "models", "hardware", "workloads")
"""Kinds of records that a query may name, each a table with a column for each field."""


MOST_ROWS = 1_000_000
"""Rows of an answer."""
_CLOSED = """
set temp_directory = ''; -- nothing is spilled to the disk
set memory_limit = '4GB';
set python_enable_replacements = false; -- no variable of ours
set enable_external_access = false; -- no file but those of the sweep, no network, no extension
set lock_configuration = true;
"""


@dataclass(frozen=True)
class Answer:
    """What a query found."""

    columns: tuple[str, ...]
    """Names of the columns, each once."""
    rows: list[tuple[Any, ...]]


def ask(sql: str, data: Path | str | None = None, *, root: Path | str | None = None) -> Answer:
    """Answer one SELECT, in DuckDB's SQL.

    The view `sweep` has the columns that the table `sweep_columns` explains. `techniques`, `models`, `hardware` and
    `workloads` are the catalog: fields of fields are joined by `_`, such as `llm_hidden`, and lists that hold more
    than words are JSON texts.

    Args:
        sql: the query.
        data: what `sweep` shows: the `out` of a sweep, finished or not; None: there is no such view.
        root: folder of the catalog; None: the one that comes with the package.

    Raises:
        AtlasError: the query is wrong or would change something, or there are no results at `data`.
    """
    files = _files(Path(data)) if data is not None else []
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as database:
        try:
            kinds = [statement.type for statement in database.extract_statements(sql)]
            if kinds != [duckdb.StatementType.SELECT]:
                raise AtlasError(
                    "sql takes one query that reads, such as: select model, min(ttft_s) from sweep group by 1"
                )
            if files:
                database.read_parquet([str(file) for file in files]).create_view("sweep")
            columns = [*map(_written, pq.read_schema(files[0]))] if files else [*map(_described, COLUMNS)]
            database.register("sweep_columns", pa.Table.from_pylist(columns))
            allowed = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
            database.execute(f"set allowed_paths = [{allowed}]; {_CLOSED}")
            planner = Planner(root)
            for kind in _named(sql):
                holder = planner.kb.atlas if kind == "techniques" else planner.atlas
                database.register(kind, _table(getattr(holder, kind).values()))
            result = database.execute(sql)
            rows = result.fetchmany(MOST_ROWS + 1)
            if len(rows) > MOST_ROWS:
                raise AtlasError(f"sql: the answer has more than {MOST_ROWS:,} rows; add a limit, or group them")
            return Answer(tuple(_distinct(name for name, *_ in result.description or ())), rows)
        except duckdb.Error as error:
            message = " ".join(str(error).partition("\n\nLINE")[0].split())
            raise AtlasError(f"sql: {message}") from None


def parts_there(data: Path | str) -> tuple[int, int]:
    """How many parts of a sweep are there, and of how many: less while it runs, or if files were removed."""
    return Results(Path(data)).parts


def _files(data: Path) -> list[Path]:
    files = Results(data).files
    if not files:
        raise AtlasError(f"there are no results at {data}; make some with lvlm-atlas sweep --out {data}")
    return files


def _described(column: Column) -> dict[str, str]:
    return {"name": column.name, "type": column.kind, "meaning": column.doc}


def _written(field: pa.Field) -> dict[str, str]:
    """A column as a table's file describes it."""
    return {"name": field.name, "type": str(field.type), "meaning": (field.metadata or {}).get(b"doc", b"").decode()}


def _named(sql: str) -> list[str]:
    """The kinds of records that a query may mean; only those are read."""
    words = set(re.findall(r"\w+", sql.lower()))
    return [kind for kind in CATALOG if words & {kind, "tables"}]


def _table(records: Iterable[BaseModel]) -> pa.Table:
    """Records as a table with a column for each field."""
    rows = [dict(_fields(record)) for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _array([row.get(name) for row in rows]) for name in names})


def _fields(record: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    dumped = record.model_dump(mode="json")
    for name in type(record).model_fields:
        value, plain = getattr(record, name), dumped[name]
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}_")
        elif isinstance(plain, dict) or (isinstance(plain, list) and not all(isinstance(each, str) for each in plain)):
            yield prefix + name, json.dumps(plain, ensure_ascii=False)
        else:
            yield prefix + name, plain


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a field that is a word in one record and a number in another
        return pa.array([None if value is None else str(value) for value in values])


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """The names, with a number where one comes again."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        yield name if counts[name] == 1 else f"{name}_{counts[name]}"
