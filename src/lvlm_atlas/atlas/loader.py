"""Loads a root: every file is read, every fault is kept, and what is sound becomes an `Atlas`."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
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
from lvlm_atlas.schema.record import ID_PATTERN, refs_in
from lvlm_atlas.schema.technique import Moved, Split, Technique
from lvlm_atlas.schema.vocabulary import AnyVocabulary, Vocabulary

TAXONOMY = Path("taxonomy")
SCHEMAS = TAXONOMY / "schema"
TECHNIQUES = Path("catalog/techniques")
MEASUREMENTS = Path("catalog/measurements")
MODELS = Path("catalog/models")
HARDWARE = Path("catalog/hardware")
WORKLOADS = Path("catalog/workloads")
KINDS: Mapping[Path, str] = {
    MEASUREMENTS: "measurement.Measurement",
    MODELS: "model.Model",
    HARDWARE: "hardware.Hardware",
    WORKLOADS: "workload.Workload",
}
"""Folders whose records are read one at a time, when they are asked for, and their type in `lvlm_atlas.schema`."""

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

    papers.bib is read when a work is first asked for, and so is each measurement, model, device and workload, one
    file at a time. References are not resolved here: `rules.check` does that.

    Raises:
        FaultsError: files have faults; the error holds them all.
        FileNotFoundError: no root is given and the package lies beside no atlas.
    """
    root = root or data_root()
    records, faults = _records(root, (TAXONOMY, TECHNIQUES))
    if faults:
        raise FaultsError(faults)
    return _with_shelves(_atlas(root, records, Papers(root)))


def shelves(root: Path | None = None) -> Atlas:
    """What `load` reads only when it is asked for: works, measurements, models, devices, workloads. No techniques.

    Raises:
        FileNotFoundError: no root is given and the package lies beside no atlas.
    """
    root = root or data_root()
    return _with_shelves(_atlas(root, {}, Papers(root)))


def _with_shelves(atlas: Atlas) -> Atlas:
    kinds = {
        name: Records(atlas.root, folder)
        for name, folder in (
            ("measurements", MEASUREMENTS), ("models", MODELS), ("hardware", HARDWARE), ("workloads", WORKLOADS),
        )
    }  # fmt: skip
    return replace(atlas, **kinds)  # type: ignore[arg-type]


class Records(Mapping[str, Any]):
    """The records in a folder of `KINDS` by id, each read when it is asked for: commands pay for what they use.

    Ids are the names of the files, which the rules hold together with what the files say.

    Raises (at use):
        FaultsError: the file asked for has faults, or the folder holds files that are no records.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._read: dict[str, BaseModel] = {}

    @cached_property
    def _paths(self) -> dict[str, Path]:
        faults: list[Fault] = []
        paths = _by_stem(_walk(self._root, self._folder, faults))
        if faults:
            raise FaultsError(faults)
        return paths

    def __getitem__(self, id_: str) -> Any:
        if id_ not in self._read:
            record, faults = _record(self._root, self._paths[id_])
            if record is None:
                raise FaultsError(faults)
            self._read[id_] = record
        return self._read[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._paths  # without reading the file


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by the ids that they say; of two with one id the first counts, and a rule tells."""
    found: dict[str, Path] = {}
    for path in paths:
        found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def inspect(root: Path | None = None) -> Inspection:
    """Everything that can be read under `root`, with the faults of the rest. Never raises for the contents of files."""
    root = root or data_root()
    records, faults = _records(root, (TAXONOMY, TECHNIQUES, *KINDS))
    papers, bib_faults = read_papers(root)
    return Inspection(_atlas(root, records, papers), records, tuple(sorted(faults + bib_faults)))


def _records(root: Path, folders: Collection[Path]) -> tuple[dict[Path, BaseModel], list[Fault]]:
    records: dict[Path, BaseModel] = {}
    faults: list[Fault] = []
    with _without_gc():
        for path in _files(root, folders, faults):
            record, found = _record(root, path)
            faults += found
            if record is not None:
                records[path] = record
    if TAXONOMY in folders and not any(fault.path.is_relative_to(TAXONOMY) for fault in faults):
        faults += _missing_vocabularies(records)
    return records, faults


def _record(root: Path, path: Path) -> tuple[BaseModel | None, list[Fault]]:
    """The record of a file, or None and every fault of it."""
    try:
        document = read(root, path)
    except DocumentError as error:
        return None, [error.fault]
    return validate(_adapter(_kind(path, document.data)), document, root)


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
        if where != folder or (root / where).exists():  # a catalog may have no measurements, or no models of its own
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
    folder = _folder(path)
    if folder in KINDS:
        module, _, name = KINDS[folder].rpartition(".")
        return getattr(import_module(f"lvlm_atlas.schema.{module}"), name)
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
        papers=papers, paths=paths, measurements=_of_folder(records, MEASUREMENTS),
        models=_of_folder(records, MODELS), hardware=_of_folder(records, HARDWARE),
        workloads=_of_folder(records, WORKLOADS),
    )  # fmt: skip


def _of_folder(records: Mapping[Path, BaseModel], folder: Path) -> dict[str, Any]:
    """The sound records of a folder, under the ids of their files."""
    return {id_: records[path] for id_, path in _by_stem(p for p in records if _folder(p) == folder).items()}


def _folder(path: Path) -> Path:
    """The folder of a kind of records that a file lies in, such as catalog/models."""
    return Path(*path.parts[:2])


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
