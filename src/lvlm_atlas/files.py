"""Writes files: each whole or not at all, whoever else writes, and whenever the process is killed.

A text is written beside its place, then put there in one step. What a killed writer leaves behind is a hidden
`.NAME.….part`, which the next writer of that name removes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from lvlm_atlas.fault import AtlasError

PART = ".part"
STALE_S = 3600.0
"""A file half written for longer than this belongs to nobody any more."""


def cache_folder() -> Path:
    """The folder of this program in the user's cache folder; it need not be there."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "lvlm-atlas"


def replace_file(path: Path, content: str | bytes, shown: Path | None = None) -> None:
    """Write a file, in the place of the one that is there, if any, with that one's permissions.

    Args:
        path: where.
        content: a text is written as UTF-8.
        shown: the path as messages call it.

    Raises:
        AtlasError: it cannot be written; the file that was there is as it was.
    """
    with writable(shown or path):
        path = path.resolve()  # a link stays one
        with half_written(path, content) as half:
            if path.exists():
                half.chmod(path.stat().st_mode & 0o7777)
            half.replace(path)


def create_file(path: Path, content: str | bytes, shown: Path | None = None) -> None:
    """Write a file that is not there yet, and its folder where that is missing; of two who do so at once, one fails.

    Arguments as of `replace_file`.

    Raises:
        FileExistsError: it is there.
        AtlasError: it cannot be written.
    """
    with writable(shown or path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with half_written(path, content) as half:
            try:
                path.hardlink_to(half)  # unlike a rename, this fails if the file is there
            except FileExistsError:
                there = True
            else:
                there = False
    if there:
        raise FileExistsError(path)


def write_all(root: Path, new: Mapping[Path, str], changed: Mapping[Path, str] | None = None) -> None:
    """Write text files under `root`, given by their paths relative to it: all of them, or after a fault none.

    The last of the new files is put in place at the very end. So a process that is killed never leaves it without the
    others, and the same call made again completes them: a new file that is there with that text is taken as written.

    Args:
        root: where the catalog lies.
        new: files that must not be there yet, what makes them count last: an entry after its reference.
        changed: files that are replaced.

    Raises:
        AtlasError: a new file is there with another text, or one cannot be written; nothing is kept then.
    """
    *first, last = new
    done: list[Callable[[], object]] = []  # how to take each step back
    try:
        for path in first:
            if _place(root, path, new[path], same_is_fine=True):
                done.append((root / path).unlink)
        for path, text in (changed or {}).items():
            with writable(path):
                before = (root / path).read_bytes() if (root / path).exists() else None
            replace_file(root / path, text, shown=path)
            done.append(partial(_restore, root / path, before))
        _place(root, last, new[last])
    except BaseException:
        for undo in reversed(done):
            undo()
        raise


def _place(root: Path, path: Path, text: str, *, same_is_fine: bool = False) -> bool:
    """Whether a new file had to be written."""
    try:
        create_file(root / path, text, shown=path)
    except FileExistsError:
        if same_is_fine and (root / path).is_file() and (root / path).read_bytes() == text.encode():
            return False
        raise AtlasError(f"{path} exists already; choose another id, or remove it") from None
    return True


def _restore(path: Path, before: bytes | None) -> None:
    if before is None:
        path.unlink()
    else:
        replace_file(path, before)


@contextmanager
def half_written(path: Path, content: str | bytes) -> Iterator[Path]:
    """A hidden file with this content beside `path`, readable for all, gone afterwards.

    Raises:
        OSError: it cannot be written.
    """
    _remove_stale(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say in a line what stands in the way of writing: a full disk, a folder of somebody else's.

    Raises:
        AtlasError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AtlasError(f"cannot write {path}: {reason}; free what is in the way, or name another place") from None


def _remove_stale(path: Path) -> None:
    """Remove what killed writers of this file left long ago."""
    for left in path.parent.glob(f".{_escaped(path.name[:100])}.*{PART}"):
        with suppress(OSError):
            if left.lstat().st_mtime < time.time() - STALE_S:
                left.unlink()


def _escaped(name: str) -> str:
    """A name as a glob pattern that matches it alone."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)
