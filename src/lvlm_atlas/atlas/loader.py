"""Loads a root: every file is read, every fault is kept, and what is sound becomes an `Atlas`."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel

from lvlm_atlas.atlas.atlas import Atlas
from lvlm_atlas.atlas.pack import pack_of
from lvlm_atlas.atlas.placeholders import RULE as PLACEHOLDER_RULE
from lvlm_atlas.atlas.records import (
    CALIBRATIONS,
    CURVES,
    HARDWARE,
    KINDS,
    LISTS,
    MEASUREMENTS,
    MODELS,
    RUNTIMES,
    STACKS,
    SYSTEMS,
    TAXONOMY,
    TECHNIQUES,
    TIMINGS,
    TRAFFIC,
    WORKLOADS,
    Papers,
    Records,
    by_stem,
    fault,
    folder_of,
    kind_in,
    read_record,
    walk,
)
from lvlm_atlas.atlas.root import data_root, is_root
from lvlm_atlas.atlas.snapshot import Snapshot
from lvlm_atlas.fault import Fault, FaultsError
from lvlm_atlas.schema.record import refs_in
from lvlm_atlas.schema.technique import Moved, Split, Technique
from lvlm_atlas.schema.vocabulary import AnyVocabulary, Vocabulary

if TYPE_CHECKING:
    from lvlm_atlas.atlas.yaml_subset import Loc

R = TypeVar("R", bound=BaseModel)

_FOLDERS = {
    "measurements": MEASUREMENTS, "models": MODELS, "hardware": HARDWARE, "workloads": WORKLOADS,
    "systems": SYSTEMS, "lists": LISTS, "runtimes": RUNTIMES, "timings": TIMINGS,
    "calibrations": CALIBRATIONS, "traffic": TRAFFIC, "curves": CURVES,
    "stacks": STACKS,
}  # fmt: skip
"""Folders of records that `load` reads one at a time, by their field of `Atlas`."""


@dataclass(frozen=True, eq=False)
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

    papers.bib is read when a work is first asked for, and so is each measurement, model, device, workload and system,
    one file at a time. References are not resolved here: `rules.check` does that. Techniques whose files have no fault
    but places to fill in are left out and named in `drafts`. Files that have not changed since they were last found
    sound are taken from their `Snapshot`.

    Raises:
        FaultsError: files have faults; the error holds them all.
        FileNotFoundError: no root is given and the package lies beside no atlas.
    """
    root = root or data_root()
    snapshot = Snapshot(root, (TAXONOMY, TECHNIQUES))
    drafts: dict[str, Path] = {}
    kept = snapshot.read()
    records = {Path(name): record for name, record in kept.items()} if kept is not None else None
    if records is None:
        records, faults = _records(root, (TAXONOMY, TECHNIQUES))
        drafts = _drafts(faults)
        if any(fault.path not in drafts.values() for fault in faults):
            raise FaultsError(faults)
        if not faults:
            snapshot.write({str(path): record for path, record in records.items()})
    shelves: dict[str, Any] = {name: Records(root, folder) for name, folder in _FOLDERS.items()}
    return replace(_atlas(root, records, Papers(root)), drafts=drafts, **shelves)


def taxonomy(root: Path | None = None) -> Atlas:
    """The vocabularies under `root` alone, which can be asked for while entries are still drafts.

    Raises:
        FaultsError: files of the taxonomy have faults; the error holds them all.
        FileNotFoundError: no root is given and the package lies beside no atlas.
    """
    root = root or data_root()
    records, faults = _records(root, (TAXONOMY,))
    if faults:
        raise FaultsError(faults)
    return _atlas(root, records, Papers(root))


def inspect(root: Path | None = None) -> Inspection:
    """Everything that can be read under `root`, with the faults of the rest. Never raises for the contents of files."""
    from lvlm_atlas.atlas.bibtex import read_papers  # noqa: PLC0415 - `load` reads it later, if at all

    root = root or data_root()
    records, faults = _records(root, (TAXONOMY, TECHNIQUES, *KINDS))
    packed = pack_of(root)
    papers, bib_faults = (packed.papers, []) if packed else read_papers(root)
    shelves: dict[str, Any] = {name: _of_folder(records, folder) for name, folder in _FOLDERS.items()}
    atlas = replace(_atlas(root, records, papers), **shelves)
    return Inspection(atlas, records, tuple(sorted(faults + bib_faults)))


def _records(root: Path, folders: Collection[Path]) -> tuple[dict[Path, BaseModel], list[Fault]]:
    packed = pack_of(root)
    records: dict[Path, BaseModel] = dict(packed.records) if packed else {}
    faults: list[Fault] = []
    with _without_gc():
        for path in _files(root, folders, faults):
            record, file_faults = read_record(root, path, _kind)
            faults += file_faults
            if record is not None:
                records[path] = record
            else:
                records.pop(path, None)
    if TAXONOMY in folders and not any(fault.path.is_relative_to(TAXONOMY) for fault in faults):
        faults += _missing_vocabularies(records)
    return records, faults


def _drafts(faults: Collection[Fault]) -> dict[str, Path]:
    """The technique files whose faults are all places to fill in, by the ids that their names say."""
    broken = {fault.path for fault in faults if fault.rule != PLACEHOLDER_RULE or folder_of(fault.path) != TECHNIQUES}
    return by_stem(fault.path for fault in faults if fault.path not in broken)


def _files(root: Path, folders: Collection[Path], faults: list[Fault]) -> Iterator[Path]:
    """Files of records, relative to the root, paths ascending; whatever else lies there is a fault."""
    if not is_root(root):
        faults.append(fault(TAXONOMY, "missing-file", f"there is no folder {TAXONOMY}", "give a root that holds one"))
    for folder in folders:
        yield from walk(root, folder, faults)


def _references(record: BaseModel) -> Iterator[tuple[Loc, str, str]]:
    yield from refs_in(record)
    # Closed sets of the schema that the taxonomy defines for readers.
    if isinstance(record, Technique):
        for index, effect in enumerate(record.effects):
            yield ("effects", index, "quantity"), "quantity", effect.quantity
    for key in ("interactions", "relations"):
        for index, edge in enumerate(getattr(record, key, ())):
            yield (key, index, "evidence"), "evidence", edge.evidence


def _kind(path: Path, data: Mapping[str, Any]) -> Any:
    """The type of record that a file should hold."""
    if path.parts[0] == TAXONOMY.name:
        return AnyVocabulary
    folder = folder_of(path)
    if folder in KINDS:
        return kind_in(folder)
    return Moved if "moved" in data else Split if "split" in data else Technique


def _missing_vocabularies(records: Mapping[Path, BaseModel]) -> list[Fault]:
    have = {record.vocabulary for record in records.values() if isinstance(record, Vocabulary)}
    members = get_args(get_args(AnyVocabulary)[0])
    wanted = [name for kind in members for name in get_args(kind.model_fields["vocabulary"].annotation)]
    return [
        fault(TAXONOMY, "missing-vocabulary", f"no file holds the vocabulary {name!r}", f"add `vocabulary: {name}`")
        for name in wanted
        if name not in have
    ]


def _atlas(root: Path, records: Mapping[Path, BaseModel], papers: Mapping[str, Any]) -> Atlas:
    """The atlas of vocabularies and techniques; of two with one id a technique counts, or the first path; a rule
    tells.
    """
    vocabularies: dict[str, Vocabulary] = {}
    techniques: dict[str, Technique] = {}
    redirects: dict[str, tuple[str, ...]] = {}
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
    redirects = {old: new for old, new in redirects.items() if old not in techniques}
    return Atlas(
        root=root, vocabularies=vocabularies, techniques=dict(sorted(techniques.items())), redirects=redirects,
        papers=papers, paths=paths, measurements={},
    )  # fmt: skip


def _of_folder(records: Mapping[Path, BaseModel], folder: Path) -> dict[str, Any]:
    """The sound records of a folder, under the ids of their files."""
    return {id_: records[path] for id_, path in by_stem(p for p in records if folder_of(p) == folder).items()}


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
