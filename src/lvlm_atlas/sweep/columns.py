"""The columns of a sweep: the coordinates of a point, the fields of its estimate as JSON, and what is wrong with it.

Every number is predicted. Fields of the estimate keep their meanings, which `roofline.contract_fields` tells; in their
names `_` stands for the dots, and the stages go by their own names: `tokens_vision`, `decoding_time_s`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lvlm_atlas.roofline.contract_fields import FIELDS, Field
from lvlm_atlas.roofline.stage import STAGES

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    kind: str
    """Type: `string`, `int64`, `float64`, `bool` or `list<string>`."""
    doc: str
    """What it holds."""
    path: tuple[str, ...] = ()
    """Steps to its value in the estimate's JSON; none: the sweep knows it itself."""


POINT = (
    Column("point", "int64", "Number of the point, from 0; the order of the rows."),
    Column("model", "string", "Id of the model."),
    Column("hardware", "string", "Id of the device."),
    Column("workload", "string", "Id of the workload."),
    Column("stack", "string", "Techniques with their settings, as --stack takes them; none: no technique."),
    Column("techniques", "list<string>", "Ids of the techniques of the stack."),
    Column("batch", "int64", "Requests processed together."),
    Column("tensor_parallel", "int64", "Devices that share each layer."),
    Column("pipeline_parallel", "int64", "Groups of layers on devices of their own."),
    Column("weight_dtype", "string", "Type of the weights asked for; null: the model's."),
    Column("activation_dtype", "string", "Type of the activations asked for; null: the model's."),
    Column("kv_dtype", "string", "Type of the cache asked for; null: that of the activations."),
    Column("attention", "string", "Prefill attention: fused or materialised."),
    Column("efficiency", "string", "Preset of the efficiency factors; null with a runtime."),
    Column("runtime", "string", "Id of the runtime; null with a preset."),
    Column("price_usd_h", "float64", "Price given for a device for an hour, in USD."),
)
"""Where a point lies. Every row has these."""

ERROR = Column(
    "error",
    "string",
    "Why the point cannot be: it is refused, and has no numbers, or it does not fit in memory, and has those of enough "
    "memory. Null: nothing is wrong.",
)

_KINDS: Mapping[str, str] = {"text": "string", "number": "float64", "integer": "int64", "truth": "bool"}


def _predicted() -> Iterator[Column]:
    """The fields of the estimate that are one value each."""
    known = {"format", *(column.name for column in POINT)}
    for field in FIELDS:
        if field.kind in _KINDS and field.name not in known:
            stages = STAGES if "*" in field.name else ("",)
            yield from (_of(field, stage) for stage in stages)


def _of(field: Field, stage: str) -> Column:
    path = field.name.replace("*", stage).split(".")
    name = "_".join(path[1:] if stage else path)
    return Column(
        name, _KINDS[field.kind], field.meaning + (f" Unit: {field.unit}." if field.unit else ""), tuple(path)
    )


COLUMNS = (*POINT, *_predicted(), ERROR)
"""All columns, in their order."""
_FROM_ESTIMATE = tuple(column for column in COLUMNS if column.path)


def schema(columns: Sequence[Column] = COLUMNS) -> pa.Schema:
    """The schema of a table. Each field carries its meaning."""
    import pyarrow as pa  # noqa: PLC0415  an extra

    kinds = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
    kinds["list<string>"] = pa.list_(pa.string())
    fields = [pa.field(column.name, kinds[column.kind], metadata={"doc": column.doc}) for column in columns]
    return pa.schema(fields, metadata={"evidence": "predicted"})


def parquet(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as a Parquet file; what a row lacks is null."""
    import pyarrow as pa  # noqa: PLC0415  an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    table: dict[str, list[Any]] = {column.name: [] for column in columns}
    for row in rows:
        for name, values in table.items():
            values.append(row.get(name))
    file = io.BytesIO()
    pq.write_table(pa.table(table, schema=schema(columns)), file)
    return file.getvalue()


def predicted(estimate: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The columns that an estimate fills, with its values.

    Args:
        estimate: the estimate as JSON data.
    """
    for column in _FROM_ESTIMATE:
        value: Any = estimate
        for step in column.path:
            value = value[step]
        # The JSON writes whole numbers as integers, too long ones for Arrow to take them as floats.
        yield column.name, float(value) if column.kind == "float64" and value is not None else value
