"""Records as they were when their files were last read and found sound, so that commands need not read them again.

A snapshot lies in the user's cache folder and stands for one exact state of the catalog's files and of the code that
reads them: names, sizes and times of change, to the nanosecond. Whatever does not fit is ignored and rebuilt. Those of
a catalog lie in a folder of their own, each apart: a command reads those of the files that it asks for.

It is a pickle, since that is ten times faster than building the validators that would read JSON; but one that can do
no harm: only the file's owner may have written it, in a folder that only the owner may write to, and it may name no
class but records of `lvlm_atlas.schema` and works of the bibliography, so that even a forged one makes such objects
and calls nothing else.
"""

from __future__ import annotations

import os
import pickle
import stat
import sys
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.version import VERSION

from lvlm_atlas.schema.record import Record

SWITCH = "LVLM_ATLAS_SNAPSHOT"
"""Environment variable: `off` turns snapshots off."""
SETTLED_S = 2.0
"""Files that changed later than this before reading are not snapshot: another change could bear the same time."""
KEPT = 16
"""Catalogs whose snapshots are kept."""
MAX_BYTE = 64 * 2**20

_FORMAT = b"lvlm-atlas snapshot 3\n"
_PACKAGE = Path(__file__).resolve().parents[1]
_READERS = ("schema", "atlas")
"""Packages that decide what a record is."""
_SCHEMA = "lvlm_atlas.schema."
_WORK = ("lvlm_atlas.atlas.bibliography", "Paper")


class Snapshot:
    """The snapshot of what some files and folders of a catalog hold, as far as there may be one.

    Args:
        root: the catalog.
        sources: the files and folders that are read, relative to it.
    """

    def __init__(self, root: Path, sources: Collection[Path]) -> None:
        self._root = root.absolute()
        self._sources = [self._root / source for source in sources]
        self._cache = _cache_folder()
        self._state = b""

    @property
    def path(self) -> Path | None:
        """Where it lies; None if snapshots are turned off, or impossible on this system."""
        if self._cache is None or os.environ.get(SWITCH, "").lower() == "off" or not hasattr(os, "geteuid"):
            return None
        names = "\n".join(map(str, self._sources))
        return self._cache / _name(str(self._root)) / f"{_name(names)}.snapshot"

    def read(self) -> dict[str, Any] | None:
        """What `write` was given; None if the files, or the code that reads them, have changed since."""
        path = self.path
        if path is None:
            return None
        try:
            self._state, _ = self._current()
            raw = _read_own(path)
            head = _FORMAT + self._state
            if not raw.startswith(head):
                return None
            body = raw[len(head) + 4 :]
            if zlib.crc32(body).to_bytes(4, "big") != raw[len(head) : len(head) + 4]:
                return None
            return restored(body)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the files themselves are still there
            return None

    def write(self, records: Mapping[str, Any]) -> None:
        """Keep what was read after `read` was called, if no file has changed meanwhile. Never raises."""
        path = self.path
        if path is None or not self._state:
            return
        try:
            state, newest_s = self._current()
            if state != self._state or newest_s > time.time() - SETTLED_S:
                return
            body = pickle.dumps(_shared(dict(records), {}), protocol=5)
            if not path.parent.is_dir():
                _prune(path.parent.parent)
            _write_own(path, _FORMAT + state + zlib.crc32(body).to_bytes(4, "big") + body)
        except OSError:
            return

    def _current(self) -> tuple[bytes, float]:
        """The state of all that the records depend on, and when the newest of it changed, in seconds."""
        sources, newest_ns = _state(self._sources)
        code, newest_code_ns = _code()
        text = f"{code}\n{sources}".encode("utf-8", "surrogateescape")
        return len(text).to_bytes(4, "big") + text, max(newest_ns, newest_code_ns) / 1e9


def restored(data: bytes) -> dict[str, Any]:
    """What was pickled, records and works alone.

    Raises:
        UnpicklingError: it is damaged, or names anything else.
    """
    records: dict[str, Any] = _Unpickler(BytesIO(data)).load()
    return records


class _Unpickler(pickle.Unpickler):
    """Makes records and works, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of records, or that of works; others are refused."""
        if (module, name) == _WORK:
            return super().find_class(module, name)
        class_ = super().find_class(module, name) if module.startswith(_SCHEMA) and name.isidentifier() else None
        if not (isinstance(class_, type) and issubclass(class_, BaseModel)):
            raise pickle.UnpicklingError(f"{module}.{name} is no record")
        return class_


def _shared(value: Any, first: dict[tuple[Any, ...], Any]) -> Any:
    """A value in which equal texts, tuples and records are one object, so that each is kept, and read again, once.

    Args:
        value: the value; it stays as it is.
        first: the object that stands for each kind and what it holds; filled here.
    """
    if isinstance(value, str):
        return first.setdefault((str, value), value)
    if isinstance(value, tuple):
        parts = tuple(_shared(each, first) for each in value)
        return first.setdefault((tuple, *map(id, parts)), parts)
    if isinstance(value, dict):
        return {_shared(key, first): _shared(each, first) for key, each in value.items()}
    if isinstance(value, Record):
        state = _shared(value.__getstate__(), first)
        key = (type(value), *map(id, state), *map(id, state.values()))
        if key not in first:
            first[key] = object.__new__(type(value))
            first[key].__setstate__(state)
        return first[key]
    return value


def _cache_folder() -> Path | None:
    """The folder of snapshots in the user's cache folder; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"  # noqa: PTH117
    except RuntimeError:
        return None
    return home / "lvlm-atlas" / "snapshots"


def _name(text: str) -> str:
    """The name of what lies in the cache for one path, or several."""
    return f"{zlib.crc32(os.fsencode(text)):08x}"


@cache
def _code() -> tuple[str, int]:
    """The state of the code that reads records, and when the newest of its files changed, in nanoseconds."""
    files, newest_ns = _state([_PACKAGE / name for name in _READERS])
    return f"{sys.implementation.cache_tag} {VERSION}\n{files}", newest_ns


def _state(sources: Collection[Path]) -> tuple[str, int]:
    """The state of files and folders, and when the newest of them changed, in nanoseconds."""
    lines, newest_ns = [], 0
    for source in sources:
        for name, info in _files(str(source)):
            newest_ns = max(newest_ns, info.st_mtime_ns, info.st_ctime_ns)
            lines.append(f"{name!r} {info.st_mode} {info.st_size} {info.st_ino} {info.st_mtime_ns} {info.st_ctime_ns}")
    return "\n".join(lines), newest_ns


def _files(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """A file, or all in a folder and below, by name; links are not followed, compiled code is left out."""
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode):
        yield path, info
        return
    for name in sorted(os.listdir(path)):  # noqa: PTH208 - many files, and Path is slow
        if name != "__pycache__":
            yield from _files(f"{path}/{name}")


def _read_own(path: Path) -> bytes:
    """The contents of a file that nobody but us can have written.

    Raises:
        OSError: there is none, or others could have written it.
    """
    _require_own(path.parent.lstat(), stat.S_ISDIR)
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(handle)
        _require_own(info, stat.S_ISREG)
        if info.st_size > MAX_BYTE:
            raise OSError(f"{path} has {info.st_size} bytes")
        return file.read()


def _require_own(info: os.stat_result, is_kind: Any) -> None:
    if not is_kind(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise PermissionError("others could have written it")


def _write_own(path: Path, data: bytes) -> None:
    """Write a file that only we can write, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(path.parent.lstat(), stat.S_ISDIR)
    temporary = path.with_suffix(f".{os.getpid()}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _prune(cache: Path) -> None:
    """Make room for one more catalog: drop all but the newest, and what interrupted writers or older versions left."""
    import shutil  # noqa: PLC0415 - seldom needed

    stale = (file for file in cache.glob("*/*.new") if file.lstat().st_mtime < time.time() - 3600)
    catalogs = sorted(cache.glob("*"), key=lambda folder: folder.lstat().st_mtime_ns, reverse=True)
    for folder in catalogs[KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
    for file in (*stale, *cache.parent.glob("*.snapshot")):
        file.unlink(missing_ok=True)
