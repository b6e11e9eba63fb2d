"""The lab's trained models and their parts, as the records beside their weights tell of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path("checkpoints")
"""Where they lie under a root."""
MODEL, PART = "checkpoint.yaml", "part.yaml"
"""The record of a model, and of a part."""


def records(root: Path, name: str) -> dict[str, dict[str, Any]]:
    """The records of that file name by id; a root may have none."""
    found = (yaml.safe_load(path.read_text("utf-8")) for path in sorted((root / FOLDER).glob(f"*/{name}")))
    return {record["id"]: record for record in found}
