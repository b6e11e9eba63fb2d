"""Files of records: where they lie, which there are, and those that are read one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from lvlm_atlas.atlas.pack import pack_of
from lvlm_atlas.atlas.snapshot import Snapshot
from lvlm_atlas.fault import Fault, FaultsError
from lvlm_atlas.schema.record import ID_PATTERN

if TYPE_CHECKING:
    from lvlm_atlas.atlas.bibliography import Paper

TAXONOMY = Path("taxonomy")
SCHEMAS = TAXONOMY / "schema"
TECHNIQUES = Path("catalog/techniques")
MEASUREMENTS = Path("catalog/measurements")
MODELS = Path("catalog/models")
HARDWARE = Path("catalog/hardware")
WORKLOADS = Path("catalog/workloads")
SYSTEMS = Path("catalog/systems")
LISTS = Path("catalog/lists")
RUNTIMES = Path("catalog/runtimes")
TIMINGS = Path("catalog/timings")
CALIBRATIONS = Path("catalog/calibrations")
TRAFFIC = Path("catalog/traffic")
CURVES = Path("catalog/curves")
STACKS = Path("catalog/stacks")
KINDS: Mapping[Path, str] = {
    MEASUREMENTS: "measurement.Measurement",
    MODELS: "model.Model",
    HARDWARE: "hardware.Hardware",
    WORKLOADS: "workload.Workload",
    SYSTEMS: "system.System",
    LISTS: "survey_list.SurveyList",
    RUNTIMES: "runtime.Runtime",
    TIMINGS: "timing.Timings",
    CALIBRATIONS: "calibration.Calibration",
    TRAFFIC: "traffic.Traffic",
    CURVES: "curve.Curve",
    STACKS: "stack.MeasuredStack",
}
"""Folders whose records are read one at a time, when they are asked for, and their type in `lvlm_atlas.schema`."""

_WELCOME = ("README.md",)  # beside the records; files whose name begins with a dot are left alone too


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
        paths = walk(self._root, self._folder, faults)
        if faults:
            raise FaultsError(faults)
        return by_stem([*paths, *(path for path in self._packed if path.is_relative_to(self._folder))])

    @cached_property
    def _packed(self) -> Mapping[Path, BaseModel]:
        packed = pack_of(self._root)
        return packed.records if packed else {}

    def __getitem__(self, id_: str) -> Any:
        if id_ not in self._read:
            path = self._paths[id_]
            if path in self._packed and not (self._root / path).is_file():
                return self._packed[path]
            snapshot = Snapshot(self._root, (path,))
            record = (snapshot.read() or {}).get(id_)
            if record is None:
                record, faults = read_record(self._root, path, _kind)
                if record is None:
                    raise FaultsError(faults)
                snapshot.write({id_: record})
            self._read[id_] = record
        return self._read[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._paths  # without reading the file


class Papers(Mapping[str, "Paper"]):
    """The works under a root by key. The file is parsed at first use: most commands never cite.

    Raises (at first use):
        FaultsError: papers.bib has faults.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def _papers(self) -> dict[str, Paper]:
        # Imported here: most commands cite nothing.
        from lvlm_atlas.atlas.bibliography import BIB  # noqa: PLC0415

        if packed := pack_of(self._root):
            return dict(packed.papers)
        snapshot = Snapshot(self._root, (BIB,))
        papers = snapshot.read()
        if papers is None:
            from lvlm_atlas.atlas.bibtex import read_papers  # noqa: PLC0415

            papers, faults = read_papers(self._root)
            if faults:
                raise FaultsError(faults)
            snapshot.write(papers)
        return papers

    def __getitem__(self, key: str) -> Paper:
        return self._papers[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._papers)

    def __len__(self) -> int:
        return len(self._papers)


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by the ids that they say; of two with one id the first counts, and a rule tells."""
    by_id: dict[str, Path] = {}
    for path in paths:
        by_id.setdefault(path.stem, path)
    return dict(sorted(by_id.items()))


def read_record(
    root: Path, path: Path, kind_of: Callable[[Path, Mapping[str, Any]], Any]
) -> tuple[BaseModel | None, list[Fault]]:
    """The record of a file, or None and every fault of it.

    Args:
        root: where the catalog lies.
        path: the file, relative to it.
        kind_of: the type of record that a file with such contents should hold.
    """
    # Imported here: a command whose records come from a snapshot needs neither.
    from lvlm_atlas.atlas.document import DocumentError, read  # noqa: PLC0415
    from lvlm_atlas.atlas.validation import validate  # noqa: PLC0415

    try:
        document = read(root, path)
    except DocumentError as error:
        return None, [error.fault]
    return validate(_adapter(kind_of(path, document.data)), document, root)


def _kind(path: Path, _: Mapping[str, Any]) -> Any:
    return kind_in(folder_of(path))


def kind_in(folder: Path) -> Any:
    """The type of the records in a folder of `KINDS`."""
    module, _, name = KINDS[folder].rpartition(".")
    return getattr(import_module(f"lvlm_atlas.schema.{module}"), name)


def walk(root: Path, folder: Path, faults: list[Fault]) -> list[Path]:
    """Files of records in a folder, ascending; whatever else lies there is added to the faults."""
    paths: list[Path] = []

    def unreadable(error: OSError) -> None:
        where = Path(error.filename).relative_to(root)
        if where != folder or (root / where).exists():  # a catalog may have no measurements, or no models of its own
            reason = os.strerror(error.errno or 0)
            faults.append(fault(where, "unreadable", f"the folder cannot be read: {reason}", "make it readable"))

    if (root / folder).is_symlink():
        faults.append(fault(folder, "symbolic-link", "this is a link and is not followed", "put the folder here"))
        return []
    for parent, folders, files in os.walk(root / folder, onerror=unreadable):
        here = Path(parent).relative_to(root)
        for name in [*folders, *files]:
            path = here / name
            if not name.isprintable():
                what = f"the name {os.fsencode(name)!r} is not plain text"
                faults.append(fault(here, "file-name", what, "rename the file"))
            elif name in folders:
                if os.path.islink(os.path.join(parent, name)):  # noqa: PTH114, PTH118 - many files, and Path is slow
                    what = "this folder is a link and is not followed"
                    faults.append(fault(path, "symbolic-link", what, "put the folder itself here"))
            elif name.endswith(".yaml") and re.fullmatch(ID_PATTERN, name[:-5]):
                paths.append(path)
            elif here != SCHEMAS and name not in _WELCOME and not name.startswith("."):
                what = f"{name!r} is not the file of a record"
                faults.append(fault(path, "file-name", what, "name it <id>.yaml, or move it elsewhere"))
    return sorted(paths)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def folder_of(path: Path) -> Path:
    """The folder of a kind of records that a file lies in, such as catalog/models."""
    return Path(*path.parts[:2])


def fault(path: Path, rule: str, message: str, repair: str) -> Fault:
    """A fault of a whole file or folder."""
    return Fault(path=path, rule=rule, message=message, repair=repair)
