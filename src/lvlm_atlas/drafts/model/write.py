"""Writes a drafted record into a catalog."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

from lvlm_atlas.atlas.records import MODELS
from lvlm_atlas.drafts.model import Draft
from lvlm_atlas.fault import AtlasError

_HEADER = "# yaml-language-server: $schema=../../taxonomy/schema/model.json\n"


def write(root: Path, draft: Draft) -> Path:
    """Write the record as a new file under `root` and return its path, relative to it.

    The file appears whole or not at all, and never replaces another.

    Raises:
        AtlasError: there is one already, or the folder cannot be written.
    """
    path = MODELS / f"{draft.record['id']}.yaml"
    text = "".join(_dumped(draft.record))
    folder = (root / path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(_HEADER + text)
            Path(name).chmod(0o644)
            (root / path).hardlink_to(name)  # unlike a rename, this fails if the file is there
        finally:
            Path(name).unlink(missing_ok=True)
    except FileExistsError:
        raise AtlasError(f"{path} exists already; give another --id, or remove it") from None
    except OSError as error:
        raise AtlasError(f"cannot write {path}: {error.strerror}; give a --root that can be written") from None
    return path


def _dumped(record: Mapping[str, Any], depth: int = 2) -> Iterator[str]:
    """The record, a key on a line; short lists and mappings further in stand on one."""
    for key, value in record.items():
        if isinstance(value, dict) and depth > 1:
            yield f"{key}:\n{indent(''.join(_dumped(value, depth - 1)), '  ')}"
        else:
            flow = None if isinstance(value, (dict, list)) else False
            yield yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=116, default_flow_style=flow)
