"""What earlier builds computed, in the user's cache folder, each set under a digest of all that it comes from.

A second build of the same catalog by the same program takes it from there; `LVLM_ATLAS_SNAPSHOT=off` turns that off.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.atlas.snapshot import SWITCH
from lvlm_atlas.files import cache_folder

KEPT = 2
"""Sets of each kind that are kept."""
_PACKAGE = Path(__file__).resolve().parents[2]


def folder_of(kind: str, root: Path, *files: Path) -> Path | None:
    """Where the set of a kind that comes from an atlas and further files lies or would; None where none are kept."""
    if os.environ.get(SWITCH, "").lower() == "off" or not hasattr(os, "geteuid"):
        return None
    whole = hashlib.sha256(f"{digest(root)} {digest(data_root())}".encode())
    for file in (*sorted(_PACKAGE.rglob("*.py")), *files):
        if file.is_file():
            whole.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return cache_folder() / f"{kind}-{whole.hexdigest()[:32]}"


def kept(kind: str, root: Path, made: Callable[[], Any]) -> Any:
    """What JSON makes of a value that comes from an atlas alone: that of an earlier build, else it is made and kept."""
    before = folder_of(kind, root)
    if before and intact(before):
        return json.loads((before / "value.json").read_text(encoding="utf-8"))
    text = json.dumps(made())
    if before:
        with tempfile.TemporaryDirectory(prefix="lvlm-atlas-") as folder:
            (Path(folder) / "value.json").write_text(text, encoding="utf-8")
            keep(Path(folder), before)
    return json.loads(text)


def intact(folder: Path) -> bool:
    """Whether a set is there, and nobody else can have written it."""
    try:
        seen = [folder.parent.lstat(), folder.lstat()]
    except OSError:
        return False
    return all(stat.S_ISDIR(each.st_mode) and each.st_uid == os.geteuid() and not each.st_mode & 0o022 for each in seen)


def keep(made: Path, folder: Path) -> None:
    """Keep a set, whole or not at all, and drop older ones of its kind. Never fails: it can be computed again."""
    with suppress(OSError):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f"half-{folder.name}-", dir=folder.parent))
        try:
            shutil.copytree(made, half / "made")
            (half / "made").chmod(0o700)
            (half / "made").rename(folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        kind = folder.name.rpartition("-")[0]
        sets = sorted(folder.parent.glob(f"{kind}-*"), key=lambda each: each.lstat().st_mtime_ns, reverse=True)
        for old in sets[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
