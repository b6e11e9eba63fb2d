"""Times kernels with a progress bar, keeps finished rows, and prints the laws that follow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from lvlm_atlas.atlas.shelves import Shelves
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.cli.progress import progress
from lvlm_atlas.cli.tensors import need_torch
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.units import share
from lvlm_atlas.schema.calibration import MOST_RESIDUAL, KernelLaw, Row
from lvlm_atlas.specs.laws import laws
from lvlm_atlas.specs.records import device_spec

COLUMNS = ("kernel", "type", "rows", "TFLOP/s", "of peak", "GB/s", "of peak bandwidth", "start", "residual")
"""What a table shows of a law."""
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float8": "fp8"}
"""Types of numbers as device records call them."""


def run_measure(
    atlas: Shelves, root: Path, device: str, dtype: str, out: Path, hardware: str | None, listing: Listing, *,
    record: bool,
) -> None:  # fmt: skip
    """Time what `out` does not hold yet, print the laws, and perhaps write a record.

    Raises:
        AtlasError: torch or the GPU is missing, a device is unknown, or a file cannot be read or written.
    """
    need_torch("calibrate needs", device)
    from lvlm_atlas.lab.calibration import record as write
    from lvlm_atlas.lab.kernels import cases, measured

    known = atlas.device(hardware) if hardware else None
    file = out / f"kernels-{device}-{dtype}.jsonl"
    rows = [*read_rows(file)] if file.exists() else []
    done = {_key(row) for row in rows}
    total = cases(device)
    out.mkdir(parents=True, exist_ok=True)
    with progress(f"shapes on {device}, {dtype}", len(total), len(done)) as advance, file.open("a") as kept:
        for row in measured(device, dtype, done):  # type: ignore[arg-type]
            kept.write(row.model_dump_json() + "\n")
            kept.flush()
            rows.append(row)
            advance()
    found = laws(rows)
    print_rows([_law(each, known) for each in found], COLUMNS, listing)
    typer.echo(f"{len(rows)} rows in {file}", err=True)
    _warn(found)
    if record:
        path = write(root, device, rows, found, known.id if known else None)
        typer.echo(f"wrote {path}", err=True)


def run_fit(atlas: Shelves, file: Path, hardware: str | None, listing: Listing) -> None:
    """Derive the laws of measured rows and print them.

    Raises:
        AtlasError: the file has faults or too few rows, or the device is unknown.
    """
    found = laws(read_rows(file))
    if not found:
        raise AtlasError(f"{file}: no kind of operator has three rows, which a law needs; run calibrate to its end")
    known = atlas.device(hardware) if hardware else None
    print_rows([_law(each, known) for each in found], COLUMNS, listing)
    _warn(found)


def _warn(found: Sequence[KernelLaw]) -> None:
    """Name the laws that say too little."""
    loose = [f"{law.op} ({share(law.residual)})" for law in found if law.residual > MOST_RESIDUAL]
    if loose:
        typer.echo(
            f"no law: {', '.join(loose)} of the time is not explained, {share(MOST_RESIDUAL)} at most; measure again "
            "on a device that does nothing else",
            err=True,
        )


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a file of JSON lines; a last line that an interruption cut is left out.

    Raises:
        AtlasError: the file cannot be read, or a line before the last is no row.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AtlasError(f"{file} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            yield Row.model_validate_json(line)
        except ValidationError as error:
            if number < len(lines):
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise AtlasError(f"{file}:{number}: {where}: {first['msg']}; remove the line") from None


def _key(row: Row) -> str:
    return f"{row.op} {' '.join(f'{name}={size}' for name, size in row.shape.items())}"


def _law(law: KernelLaw, hardware: Any) -> dict[str, Any]:
    spec = device_spec(hardware) if hardware else None
    peak = spec.peak_flop_s.get(SHORT[law.dtype]) if spec else None
    data = json.loads(law.model_dump_json())
    arithmetic = law.flop_s if law.op != "elementwise" else None
    return {
        **data, "id": f"{law.op}-{law.dtype}", "kernel": law.op, "type": SHORT[law.dtype],
        "TFLOP/s": f"{arithmetic / 1e12:.3g}" if arithmetic else None,
        "of peak": share(arithmetic / peak) if arithmetic and peak else None,
        "GB/s": f"{law.byte_s / 1e9:.3g}",
        "of peak bandwidth": share(law.byte_s / spec.bandwidth_byte_s) if spec else None,
        "start": f"{law.start_us:.3g} µs", "residual": share(law.residual),
    }  # fmt: skip
