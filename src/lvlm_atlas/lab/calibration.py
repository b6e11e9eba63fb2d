"""Writes records of measured kernels, never over another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import yaml

from lvlm_atlas.files import create_file
from lvlm_atlas.lab.record import machine, numbered
from lvlm_atlas.schema.calibration import Calibration, KernelLaw, Row


def record(root: Path, device: str, rows: Sequence[Row], laws: Sequence[KernelLaw], hardware: str | None) -> Path:
    """Write rows and laws as a new record under catalog/calibrations, and return its path.

    Raises:
        AtlasError: the folder cannot be written.
    """
    folder, today = root / "catalog" / "calibrations", date.today().isoformat()
    stem = f"kernels-{hardware or device}-{today}"
    calibration = Calibration(
        id=stem, kind="calibration", date=today, version=version("lvlm-atlas"), machine=machine(device),
        hardware=hardware, rows=tuple(rows), laws=tuple(laws),
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    for name in numbered(stem):
        path = folder / f"{name}.yaml"
        try:
            create_file(path, _yaml(calibration.model_copy(update={"id": name})))
        except FileExistsError:
            continue
        return path
    raise AssertionError("numbers do not end")


def _yaml(calibration: Calibration) -> str:
    data = calibration.model_dump(mode="json", exclude_none=True)
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return f"# yaml-language-server: $schema=../../taxonomy/schema/calibration.json\n{body}"
