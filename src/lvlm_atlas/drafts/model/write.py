"""Writes a drafted record into a catalog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

from lvlm_atlas.atlas.records import MODELS
from lvlm_atlas.drafts.model import Draft
from lvlm_atlas.files import write_all

_HEADER = "# yaml-language-server: $schema=../../taxonomy/schema/model.json\n"


def write(root: Path, draft: Draft) -> Path:
    """Write the record as a new file under `root` and return its path, relative to it.

    The file appears whole or not at all, and never replaces another.

    Raises:
        AtlasError: there is one already, or the folder cannot be written.
    """
    path = MODELS / f"{draft.record['id']}.yaml"
    text = "".join(_dumped(draft.record))
    write_all(root, {path: _HEADER + text})
    return path


def _dumped(record: Mapping[str, Any], depth: int = 2) -> Iterator[str]:
    """The record, a key on a line; short lists and mappings further in stand on one."""
    for key, value in record.items():
        if isinstance(value, dict) and depth > 1:
            yield f"{key}:\n{indent(''.join(_dumped(value, depth - 1)), '  ')}"
        else:
            flow = None if isinstance(value, (dict, list)) else False
            yield yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=116, default_flow_style=flow)
