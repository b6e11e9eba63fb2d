"""Reads files out of Debian packages and wheels, without unpacking either."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lvlm_atlas.fault import AtlasError

_MAGIC, _HEADER = b"!<arch>\n", 60


def files(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of a package whose name is wanted; names have no leading dot or slash.

    Raises:
        AtlasError: it is neither a Debian package nor a wheel.
    """
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            for name in sorted(filter(wanted, wheel.namelist())):
                yield name, wheel.read(name)
        return
    with tarfile.open(fileobj=io.BytesIO(_data(package))) as data:
        for member in data:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(name) and (file := data.extractfile(member)):
                yield name, file.read()


def _data(package: Path) -> bytes:
    """The archive of files inside a Debian package: an `ar` archive, as deb(5) describes it."""
    with package.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise AtlasError(f"{package}: is no Debian package; fetch it again")
        while header := file.read(_HEADER):
            name, size = header[:16].decode("ascii").rstrip(" /"), int(header[48:58])
            if name.startswith("data.tar"):
                return file.read(size)
            file.seek(size + size % 2, io.SEEK_CUR)
    raise AtlasError(f"{package}: holds no files; fetch it again")
