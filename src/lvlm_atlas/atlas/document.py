"""One text file of the atlas, read with suspicion: size, encoding and kind are checked before its contents."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvlm_atlas.atlas.yaml_subset import Loc, Place, YamlFault, parse
from lvlm_atlas.characters import HIDDEN
from lvlm_atlas.fault import AtlasError, Fault

MAX_BYTE = 256 * 1024
"""Largest YAML file. The longest entry we know takes 20 kB."""

_BOM = "\ufeff"


class DocumentError(AtlasError):
    """A file cannot be read as a document; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def read_text(root: Path, path: Path, max_byte: int = MAX_BYTE) -> str:
    """Text of a regular file under `root`, given relative to it, with Unix line ends and no byte order mark.

    Raises:
        DocumentError: it is a link, no file, unreadable, larger than `max_byte`, or not plain UTF-8 text.
    """

    def refuse(rule: str, message: str, repair: str, line: int = 1, column: int = 1) -> DocumentError:
        return DocumentError(Fault(path=path, line=line, column=column, rule=rule, message=message, repair=repair))

    file = root / path
    try:
        info = file.lstat()
        if stat.S_ISLNK(info.st_mode):
            what = f"this links to {str(file.readlink())!r} and is not followed"
            raise refuse("symbolic-link", what, "put the file itself here")
        if not stat.S_ISREG(info.st_mode):
            raise refuse("not-a-file", "this is no regular file", "put a text file here")
        if info.st_size > max_byte:
            raise refuse(
                "too-large", f"the file has {info.st_size} bytes, more than {max_byte}", "split or shorten the record"
            )
        raw = file.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise refuse("unreadable", f"the file cannot be read: {reason}", "make it readable, or remove it") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].split(b"\n")
        raise refuse(
            "not-utf8", f"byte 0x{raw[error.start]:02x} is not UTF-8", "save the file as UTF-8",
            len(before), len(before[-1].decode("utf-8")) + 1,
        ) from None  # fmt: skip
    text = text.removeprefix(_BOM).replace("\r\n", "\n")
    hidden = re.search(HIDDEN, text)
    if hidden:
        line = text.count("\n", 0, hidden.start()) + 1
        column = hidden.start() - text.rfind("\n", 0, hidden.start())
        what = f"the character U+{ord(hidden[0]):04X} is a control character or invisible"
        raise refuse("control-character", what, "remove it", line, column)
    return text


@dataclass(frozen=True)
class Document:
    """The data of one YAML file."""

    path: Path
    """Relative to the root."""
    data: dict[str, Any]
    """What it says; lists come as tuples."""


def read(root: Path, path: Path) -> Document:
    """The document at `path`, relative to `root`.

    Raises:
        DocumentError: the file, or its YAML, is not one that the atlas reads.
    """
    text = read_text(root, path)
    try:
        return Document(path, parse(text))
    except YamlFault as problem:
        raise DocumentError(
            Fault(
                path=path, line=problem.line, column=problem.column, rule=problem.rule,
                message=problem.message, repair=problem.repair,
            )
        ) from None  # fmt: skip


def places(root: Path, path: Path) -> dict[Loc, Place]:
    """Where each value of a document stands. Read again for it: only faults need places, and faults are few.

    A file that has changed or gone since gives no places, and its faults point to its first line.
    """
    places_: dict[Loc, Place] = {}
    try:
        parse(read_text(root, path), places_)
    except (DocumentError, YamlFault):
        return {}
    return places_


def place_of(places_: dict[Loc, Place], loc: Loc, at_key: bool = False) -> tuple[int, int]:
    """Line and column, from 1, of the deepest part of `loc` that is written."""
    for end in range(len(loc), 0, -1):
        if loc[:end] in places_:
            place = places_[loc[:end]]
            return place.key if at_key or end < len(loc) else place.value
    return 1, 1
