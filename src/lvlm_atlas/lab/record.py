"""Writes measurement records: by the tool alone, whole or not at all."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.schema.measurement import Machine, Measurement, SmokeResult, Workload


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


def record(root: Path, workload: Workload, device: str, results: Iterable[SmokeResult]) -> Path:
    """Write the results as a new record under catalog/measurements, and return its path.

    Raises:
        AtlasError: the folder cannot be written.
    """
    folder, today = root / "catalog" / "measurements", date.today().isoformat()
    stem = f"smoke-{device.split(':', maxsplit=1)[0]}-{workload.dtype}-{today}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = next(n for n in _numbered(stem) if not (folder / f"{n}.yaml").exists())
        measurement = Measurement(
            id=name,
            kind="smoke",
            date=today,
            commit=_commit(root),
            version=version("lvlm-atlas"),
            machine=machine(device),
            workload=workload,
            results=tuple(sorted(results, key=lambda r: r.technique)),
        )
        path = folder / f"{name}.yaml"
        write_whole(path, _yaml(measurement))
    except OSError as error:
        raise AtlasError(
            f"cannot write a record under {folder}: {error.strerror}; point --root at a checkout"
        ) from None
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees a part of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _yaml(measurement: Measurement) -> str:
    data = measurement.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return f"# yaml-language-server: $schema=../../taxonomy/schema/measurement.json\n{body}"


def _numbered(stem: str) -> Iterable[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def _commit(root: Path) -> str | None:
    """The commit of the checkout, `-dirty` if tracked files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
