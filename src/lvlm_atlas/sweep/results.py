"""Where the table of a sweep lies: a folder of parts that one process writes, each whole or not there.

    results/_manifest.json            what the sweep covers and comes from
    results/part-000000.parquet       rows in the order of their points
    results/part-000001.parquet

With `--out results.parquet` the folder is `results.parquet.parts` until all parts are there; they then become one file
that carries the manifest. Names that begin with `_` are left alone by readers of Parquet folders.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import replace_file, writable

MANIFEST = "_manifest.json"
KEY = b"lvlm_atlas_sweep"
"""Where a single file carries the manifest."""
GROUP_ROWS = 100_000
"""Rows of a row group of a single file, at least, but for the last."""

Manifest = Mapping[str, Any]


class Results:
    """The table at a path, finished or not."""

    def __init__(self, out: Path) -> None:
        self.out = out
        if out.suffix not in ("", ".parquet") and not out.exists():
            raise AtlasError(
                f"{out}: a sweep writes a folder, or one file NAME.parquet; for a spreadsheet then: "
                f"lvlm-atlas sql 'from sweep' -f csv > {out.stem}.csv"
            )
        self.single = out.suffix == ".parquet"
        self.folder = out.with_name(out.name + ".parts") if self.single else out

    @property
    def files(self) -> list[Path]:
        """The Parquet files that hold what is there of the table, in the order of their rows."""
        return [self.out] if self._joined else sorted(self.folder.glob("part-*.parquet"))

    def manifest(self) -> Manifest | None:
        """What the table covers and comes from; None: nothing is there.

        Raises:
            AtlasError: something else is there.
        """
        text: bytes | None = None
        if self.single and self.out.is_dir():
            raise AtlasError(f"{self.out} is a folder; name a file, or leave .parquet out")
        if self.single and self.out.exists():
            try:
                text = (pq.read_schema(self.out).metadata or {}).get(KEY)
            except (pa.ArrowInvalid, OSError):
                text = None
        elif (self.folder / MANIFEST).is_file():
            text = (self.folder / MANIFEST).read_bytes()
        elif all(each.name.startswith(("_", ".")) for each in self.folder.glob("*")):
            return None  # a run ended before its manifest
        with suppress(ValueError):
            manifest = json.loads(text or b"")
            if isinstance(manifest, dict):
                return manifest
        raise AtlasError(f"{self.out} holds no sweep's results; give another path")

    @contextmanager
    def writing(self, manifest: Manifest, *, restart: bool = False) -> Iterator[None]:
        """Be the one who writes here.

        Args:
            manifest: what the table is to cover and come from.
            restart: whether to discard the results that are here.

        Raises:
            AtlasError: another process writes here, or results of another sweep are here.
        """
        with writable(self.out):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AtlasError(f"another sweep is writing to {self.out}; wait for it, or give another path") from None
            try:
                self._begin(manifest, restart=restart)
                yield
            finally:
                with suppress(OSError):  # there are results in it, as a rule; only who holds the lock may remove it
                    self.folder.rmdir()
        finally:
            os.close(lock)  # which also unlocks

    @property
    def parts(self) -> tuple[int, int]:
        """How many parts are there, and of how many; both 0 where nothing is, or nothing says how many."""
        manifest = self.manifest() or {}
        points, each = manifest.get("points"), manifest.get("part_points")
        if not (isinstance(points, int) and isinstance(each, int) and each > 0):
            return 0, 0
        every = -(-points // each)
        return every - len(self.missing(every)), every

    def missing(self, parts: int) -> list[int]:
        """Numbers of the parts that are not there."""
        return [] if self._joined else [index for index in range(parts) if not self._path(index).exists()]

    def keep(self, index: int, content: bytes) -> None:
        """Put a part where it belongs, whole or not at all."""
        replace_file(self._path(index), content)

    def join(self, manifest: Manifest) -> None:
        """Make one file of the parts, if that is what was asked for."""
        if not self.single:
            return
        if not self._joined:
            schema = pq.read_schema(self.files[0])
            metadata = {**(schema.metadata or {}), KEY: json.dumps(manifest).encode()}
            half = self.folder / "_joined.tmp"
            with writable(self.out):
                with pq.ParquetWriter(half, schema.with_metadata(metadata)) as writer:
                    for tables in _groups(self.files):
                        writer.write_table(pa.concat_tables(tables))
                half.replace(self.out)
        self._clear()

    @property
    def _joined(self) -> bool:
        return self.single and self.out.is_file()

    def _begin(self, manifest: Manifest, *, restart: bool) -> None:
        existing = self.manifest()
        if existing is not None and restart:
            self._clear()
            if self.single:
                self.out.unlink(missing_ok=True)
        elif existing is not None and existing != manifest:
            other = _difference(existing, manifest)
            raise AtlasError(f"{self.out} {other}; give another --out, or discard it with --restart")
        if not self._joined:
            for half in self.folder.glob("_*.tmp"):
                half.unlink()
            replace_file(self.folder / MANIFEST, json.dumps(manifest, indent=2).encode())

    def _clear(self) -> None:
        """Remove what a sweep wrote into the folder, and nothing else."""
        for file in (*self.folder.glob("part-*.parquet"), self.folder / MANIFEST):
            file.unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}.parquet"


def _difference(existing: Manifest, manifest: Manifest) -> str:
    if existing.get("grid") == manifest["grid"] and existing.get("part_points") == manifest["part_points"]:
        return "was begun with another version of the catalog or of the engine"
    return "holds a sweep over other points"


def _groups(files: Sequence[Path]) -> Iterator[list[pa.Table]]:
    tables: list[pa.Table] = []
    for file in files:
        tables.append(pq.read_table(file))
        if sum(table.num_rows for table in tables) >= GROUP_ROWS:
            yield tables
            tables = []
    if tables:
        yield tables
