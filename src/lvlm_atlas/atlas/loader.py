"""Loads a root: every file is read, every fault is kept, and what is sound becomes an `Atlas`."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.bibliography import Papers, read_papers
from lvlm_atlas.atlas.document import DocumentError, read
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.atlas.validation import validate
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.fault import Fault, FaultsError
from lvlm_atlas.schema.measurement import Measurement
from lvlm_atlas.schema.record import ID_PATTERN, refs_in
from lvlm_atlas.schema.technique import Moved, Split, Technique
from lvlm_atlas.schema.vocabulary import AnyVocabulary, Vocabulary

TAXONOMY = Path("taxonomy")
SCHEMAS = TAXONOMY / "schema"
TECHNIQUES = Path("catalog/techniques")
MEASUREMENTS = Path("catalog/measurements")

R = TypeVar("R", bound=BaseModel)

_WELCOME = ("README.md",)  # beside the records; files whose name begins with a dot are left alone too


@dataclass(frozen=True)
class Inspection:
    """What a root holds: the sound records, and the faults of the others."""

    atlas: Atlas
    """What is sound. References may still lead nowhere: the rules tell."""
    records: Mapping[Path, BaseModel]
    """Every sound record by its file, relative to the root, paths ascending."""
    faults: tuple[Fault, ...]
    """Faults of files that could not be read as records, and of papers.bib."""

    @property
    def unread(self) -> frozenset[Path]:
        """Files with faults; what they define is unknown, so references to it may be right."""
        return frozenset(fault.path for fault in self.faults)

    def of(self, kind: type[R]) -> Iterator[tuple[Path, R]]:
        """The sound records of a kind, with their files."""
        return ((path, record) for path, record in self.records.items() if isinstance(record, kind))

    @cached_property
    def references(self) -> tuple[tuple[Path, Loc, str, str], ...]:
        """Every reference of every record: file, place, what it refers to (`stage`, `technique`, …), id."""
        return tuple(
            (path, loc, to, id_) for path, record in self.records.items() for loc, to, id_ in _references(record)
        )


def load(root: Path | None = None) -> Atlas:
    """The atlas under `root`; by default the one that comes with the package.

    papers.bib and measurements are read when one is first asked for. References are not resolved here:
    `rules.check` does that.

    Raises:
        FaultsError: files have faults; the error holds them all.
        FileNotFoundError: no root is given and the package lies beside no atlas.
    """
    root = root or data_root()
    records, faults = _records(root, (TAXONOMY, TECHNIQUES))
    if faults:
        raise FaultsError(faults)
    return replace(_atlas(root, records, Papers(root)), measurements=Measurements(root))


class Measurements(Mapping[str, Measurement]):
    """The measurement records under a root by id, read at first use: they grow with every run, and few ask for them.

    Raises (at first use):
        FaultsError: records have faults.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def _read(self) -> dict[str, Measurement]:
        records, faults = _records(self._root, (MEASUREMENTS,))
        if faults:
            raise FaultsError(faults)
        return {record.id: record for record in records.values() if isinstance(record, Measurement)}

    def __getitem__(self, id_: str) -> Measurement:
        return self._read[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def inspect(root: Path | None = None) -> Inspection:
    """Everything that can be read under `root`, with the faults of the rest. Never raises for the contents of files."""
    root = root or data_root()
    records, faults = _records(root, (TAXONOMY, TECHNIQUES, MEASUREMENTS))
    papers, bib_faults = read_papers(root)
    return Inspection(_atlas(root, records, papers), records, tuple(sorted(faults + bib_faults)))


def _records(root: Path, folders: Collection[Path]) -> tuple[dict[Path, BaseModel], list[Fault]]:
    records: dict[Path, BaseModel] = {}
    faults: list[Fault] = []
    with _without_gc():
        for path in _files(root, folders, faults):
            try:
                document = read(root, path)
            except DocumentError as error:
                faults.append(error.fault)
                continue
            record, found = validate(_adapter(_kind(path, document.data)), document, root)
            faults += found
            if record is not None:
                records[path] = record
    if TAXONOMY in folders and not any(fault.path.is_relative_to(TAXONOMY) for fault in faults):
        faults += _missing_vocabularies(records)
    return records, faults


def _files(root: Path, folders: Collection[Path], faults: list[Fault]) -> Iterator[Path]:
    """Files of records, relative to the root, paths ascending; whatever else lies there is a fault."""
    if not (root / TAXONOMY).is_dir():
        faults.append(_fault(TAXONOMY, "missing-file", f"there is no folder {TAXONOMY}", "give a root that holds one"))
    for folder in folders:
        yield from _walk(root, folder, faults)


def _walk(root: Path, folder: Path, faults: list[Fault]) -> list[Path]:
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        where = Path(error.filename).relative_to(root)
        if where != folder or (root / where).exists():  # a catalog may have no measurements yet
            reason = os.strerror(error.errno or 0)
            faults.append(_fault(where, "unreadable", f"the folder cannot be read: {reason}", "make it readable"))

    if (root / folder).is_symlink():
        faults.append(_fault(folder, "symbolic-link", "this is a link and is not followed", "put the folder here"))
        return []
    for parent, folders, files in os.walk(root / folder, onerror=unreadable):
        here = Path(parent).relative_to(root)
        for name in [*folders, *files]:
            path = here / name
            if not name.isprintable():
                what = f"the name {os.fsencode(name)!r} is not plain text"
                faults.append(_fault(here, "file-name", what, "rename the file"))
            elif name in folders:
                if os.path.islink(os.path.join(parent, name)):  # noqa: PTH114, PTH118 - many files, and Path is slow
                    what = "this folder is a link and is not followed"
                    faults.append(_fault(path, "symbolic-link", what, "put the folder itself here"))
            elif name.endswith(".yaml") and re.fullmatch(ID_PATTERN, name[:-5]):
                found.append(path)
            elif here != SCHEMAS and name not in _WELCOME and not name.startswith("."):
                what = f"{name!r} is not the file of a record"
                faults.append(_fault(path, "file-name", what, "name it <id>.yaml, or move it elsewhere"))
    return sorted(found)


def _references(record: BaseModel) -> Iterator[tuple[Loc, str, str]]:
    yield from refs_in(record)
    if isinstance(record, Technique):
        # Closed sets of the schema that the taxonomy defines for readers.
        for index, effect in enumerate(record.effects):
            yield ("effects", index, "quantity"), "quantity", effect.quantity
        for index, edge in enumerate(record.interactions):
            yield ("interactions", index, "evidence"), "evidence", edge.evidence


def _kind(path: Path, data: Mapping[str, Any]) -> Any:
    """The type of record that a file should hold."""
    if path.parts[0] == TAXONOMY.name:
        return AnyVocabulary
    if path.is_relative_to(MEASUREMENTS):
        return Measurement
    return Moved if "moved" in data else Split if "split" in data else Technique


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _missing_vocabularies(records: Mapping[Path, BaseModel]) -> list[Fault]:
    have = {record.vocabulary for record in records.values() if isinstance(record, Vocabulary)}
    members = get_args(get_args(AnyVocabulary)[0])
    wanted = [name for kind in members for name in get_args(kind.model_fields["vocabulary"].annotation)]
    return [
        _fault(TAXONOMY, "missing-vocabulary", f"no file holds the vocabulary {name!r}", f"add `vocabulary: {name}`")
        for name in wanted
        if name not in have
    ]


def _atlas(root: Path, records: Mapping[Path, BaseModel], papers: Mapping[str, Any]) -> Atlas:
    """The atlas of some records; of two with one id a technique counts, or the first path; a rule tells."""
    vocabularies: dict[str, Vocabulary] = {}
    techniques: dict[str, Technique] = {}
    redirects: dict[str, tuple[str, ...]] = {}
    measurements: dict[str, Measurement] = {}
    paths: dict[str, Path] = {}
    for path, record in records.items():
        if isinstance(record, Vocabulary):
            vocabularies.setdefault(record.vocabulary, record)
        elif isinstance(record, Technique):
            if record.id not in techniques:
                techniques[record.id], paths[record.id] = record, path
        elif isinstance(record, Moved):
            redirects.setdefault(record.id, (record.moved,))
        elif isinstance(record, Split):
            redirects.setdefault(record.id, record.split)
        elif isinstance(record, Measurement):
            measurements.setdefault(record.id, record)
    redirects = {old: new for old, new in redirects.items() if old not in techniques}
    return Atlas(
        root=root, vocabularies=vocabularies, techniques=dict(sorted(techniques.items())), redirects=redirects,
        papers=papers, measurements=measurements, paths=paths,
    )  # fmt: skip


@contextmanager
def _without_gc() -> Iterator[None]:
    """Loading makes many objects and no cycles; the collector would scan them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _fault(path: Path, rule: str, message: str, repair: str) -> Fault:
    return Fault(path=path, rule=rule, message=message, repair=repair)
