"""A whole catalog in one file, read without parsing YAML: what Python in a web page starts from.

A root that holds the file needs no others; records in files beside it, where there are any, count before its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lvlm_atlas.atlas.root import PACK
from lvlm_atlas.atlas.snapshot import restored

if TYPE_CHECKING:
    from pydantic import BaseModel

    from lvlm_atlas.atlas.bibliography import Paper


class Pack(NamedTuple):
    """What a packed catalog holds."""

    records: Mapping[Path, BaseModel]
    """Its records by file, relative to the root, paths ascending."""
    papers: Mapping[str, Paper]
    """Works by key."""
    digest: str
    """Digest of the files that it was made of."""


def pack(records: Mapping[Path, BaseModel], papers: Mapping[str, Paper], digest: str) -> bytes:
    """The file of a catalog without faults."""
    named = {path.as_posix(): record for path, record in records.items()}
    return pickle.dumps({"records": named, "papers": dict(papers), "digest": digest}, protocol=5)


def pack_of(root: Path) -> Pack | None:
    """The packed catalog of a root; None where there is none.

    Raises:
        UnpicklingError: the file is damaged, or names anything but records.
    """
    file = root / PACK
    if not file.is_file():
        return None
    info = file.stat()
    return _read(file, info.st_mtime_ns, info.st_size)


@lru_cache(1)
def _read(file: Path, _mtime_ns: int, _size: int) -> Pack:
    held: dict[str, Any] = restored(file.read_bytes())
    return Pack({Path(name): record for name, record in held["records"].items()}, held["papers"], held["digest"])
