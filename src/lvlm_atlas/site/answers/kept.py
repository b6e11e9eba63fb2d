"""Answers that were computed before, in the user's cache folder, each under a digest of all that they come from.

A second build of the same catalog by the same program takes them from there; `LVLM_ATLAS_SNAPSHOT=off` turns that off.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.atlas.snapshot import SWITCH
from lvlm_atlas.files import cache_folder

KEPT = 2
"""Sets of answers that are kept."""
_PACKAGE = Path(__file__).resolve().parents[2]


def folder_of(root: Path, source: Path) -> Path | None:
    """Where the answers of an atlas, asked for by the site's sources, lie or would; None where none are kept."""
    if os.environ.get(SWITCH, "").lower() == "off" or not hasattr(os, "geteuid"):
        return None
    whole = hashlib.sha256(f"{digest(root)} {digest(data_root())}".encode())
    for file in (*sorted(_PACKAGE.rglob("*.py")), source / "answers.yaml"):
        if file.is_file():
            whole.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return cache_folder() / f"answers-{whole.hexdigest()[:32]}"


def intact(folder: Path) -> bool:
    """Whether a set of answers is there, and nobody else can have written it."""
    try:
        seen = [folder.parent.lstat(), folder.lstat()]
    except OSError:
        return False
    return all(stat.S_ISDIR(each.st_mode) and each.st_uid == os.geteuid() and not each.st_mode & 0o022 for each in seen)


def keep(made: Path, folder: Path) -> None:
    """Keep a set of answers, whole or not at all, and drop older ones. Never fails: they can be computed again."""
    with suppress(OSError):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix="half-answers-", dir=folder.parent))
        try:
            shutil.copytree(made, half / "made")
            (half / "made").chmod(0o700)
            (half / "made").rename(folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        sets = sorted(folder.parent.glob("answers-*"), key=lambda each: each.lstat().st_mtime_ns, reverse=True)
        for old in sets[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
