"""The file that a training is kept in, so that an interrupted one goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

SAVE_EVERY = 50
"""Steps between two times that a training is kept."""


def keep(file: Path, state: Mapping[str, Any]) -> None:
    """Write what a training needs to go on; the file is whole at every time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}.part")
    torch.save(dict(state), half)
    half.replace(file)


def kept(file: Path) -> dict[str, Any] | None:
    """What was written; None where nothing was."""
    return torch.load(file, weights_only=True) if file.is_file() else None
