"""Writes measurement records: by the tool alone, and never over another."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from lvlm_atlas.atlas.document import MAX_BYTE
from lvlm_atlas.files import create_file
from lvlm_atlas.schema.measurement import Machine, Measurement, SmokeResult, Workload
from lvlm_atlas.schema.record import Record

KIND = "measurement"
"""Name of the schema of these records."""
ROOM_BYTE = 64
"""Left in a file for the number behind its name, which stands in it too."""


def machine(device: str) -> Machine:
    """This machine, as a record tells it."""
    on_gpu = device.startswith("cuda")
    return Machine(
        device=torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} processor",
        kind="cuda" if on_gpu else "cpu",
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda if on_gpu else None,
        system=f"{platform.system()} {platform.machine()}",
    )


def record(
    root: Path, workload: Workload, device: str, results: Iterable[SmokeResult], *, most_byte: int = MAX_BYTE
) -> tuple[Path, ...]:
    """Write the results as new records under catalog/measurements, as many as they need, and return their paths.

    Raises:
        AtlasError: the folder cannot be written.
    """
    run = run_fields(root, device)
    measurement = Measurement(
        id=f"smoke-{device.split(':', maxsplit=1)[0]}-{workload.dtype}-{run['date']}",
        kind="smoke",
        **run,
        workload=workload,
        results=tuple(sorted(results, key=lambda r: r.technique)),
    )
    return tuple(_created(root / "catalog" / "measurements", part) for part in _parts(measurement, most_byte))


def _parts(measurement: Measurement, most_byte: int) -> Iterator[Measurement]:
    """The measurement, halved until each part fits a file that the loader reads."""
    half = len(measurement.results) // 2
    if not half or len(as_yaml(measurement, KIND).encode()) + ROOM_BYTE <= most_byte:
        yield measurement
        return
    for results in (measurement.results[:half], measurement.results[half:]):
        yield from _parts(measurement.model_copy(update={"results": results}), most_byte)


def _created(folder: Path, measurement: Measurement) -> Path:
    for name in numbered(measurement.id):
        path = folder / f"{name}.yaml"
        try:
            create_file(path, as_yaml(measurement.model_copy(update={"id": name}), KIND))
        except FileExistsError:
            continue  # somebody else recorded today, perhaps this very moment
        return path
    raise AssertionError("numbers do not end")


def as_yaml(record: Record, schema: str, width: int = 120) -> str:
    """A record under catalog as the tool writes it.

    Args:
        record: the record.
        schema: name of the schema that editors check it by.
        width: of its lines, characters.
    """
    data = record.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=width, default_flow_style=None)
    return f"# yaml-language-server: $schema=../../taxonomy/schema/{schema}.json\n{body}"


def run_fields(root: Path, device: str) -> dict[str, Any]:
    """The fields of a record that say when, with which code and where it ran."""
    return {
        "date": date.today().isoformat(), "commit": commit(root), "version": version("lvlm-atlas"),
        "machine": machine(device),
    }  # fmt: skip


def numbered(stem: str) -> Iterator[str]:
    """Names for a record, the first free of which is taken."""
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def commit(root: Path) -> str | None:
    """The commit of the checkout, `-dirty` if tracked files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
