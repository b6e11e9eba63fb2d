"""Writes drafts: all files or none, each whole, and no file of anybody's is overwritten."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lvlm_atlas.fault import AtlasError


def write_all(root: Path, new: Mapping[Path, str], changed: Mapping[Path, str] | None = None) -> None:
    """Write text files under `root`, given by their paths relative to it.

    Args:
        root: where the catalog lies.
        new: files that must not be there yet.
        changed: files that are replaced, after all new ones are in place.

    Raises:
        AtlasError: a new file is there already, or one cannot be written; nothing is kept then.
    """
    prepared: dict[Path, Path] = {}
    placed: list[Path] = []
    path = root
    try:
        for path, text in {**new, **(changed or {})}.items():
            prepared[path] = _prepare(root / path, text)
        for path in new:
            try:
                (root / path).hardlink_to(prepared[path])  # unlike a rename, this fails if the file is there
            except FileExistsError:
                raise AtlasError(f"{path} exists already; choose another id, or remove it") from None
            placed.append(root / path)
        for path in changed or {}:
            prepared[path].replace(root / path)
        placed.clear()
    except OSError as error:
        raise AtlasError(f"cannot write {path}: {error.strerror}; give a --root that can be written") from None
    finally:
        for file in (*placed, *prepared.values()):
            file.unlink(missing_ok=True)


def _prepare(path: Path, text: str) -> Path:
    """A hidden file with this text in the folder of `path`, readable for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).chmod(0o644)
    return Path(name)
