"""The lab's trained models and their parts, as the records beside their weights tell of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lvlm_atlas.fault import AtlasError

FOLDER = Path("checkpoints")
"""Where they lie under a root."""
MODEL, PART = "checkpoint.yaml", "part.yaml"
"""The record of a model, and of a part."""


def records(root: Path, name: str) -> dict[str, dict[str, Any]]:
    """The records of that file name by id; a root may have none.

    Raises:
        AtlasError: a file is no such record.
    """
    found = map(_record, sorted((root / FOLDER).glob(f"*/{name}")))
    return {record["id"]: record for record in found}


def record(root: Path, id_: str, name: str) -> dict[str, Any] | None:
    """The record of that file name of one model or part; None where it lies under no such root.

    Raises:
        AtlasError: the file is no such record.
    """
    path = root / FOLDER / id_ / name
    return _record(path) if path.is_file() else None


def _record(path: Path) -> dict[str, Any]:
    try:
        record = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict) or not {"id", "sha256"} <= record.keys():
        raise AtlasError(f"{path}: is no record with an id and the hash of weights; restore it, or train it anew")
    return record
