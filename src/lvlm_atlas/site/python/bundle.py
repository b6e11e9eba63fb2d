"""Puts the interpreter, the program, what it imports and its catalog into a site."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

from lvlm_atlas.atlas.edition import digest
from lvlm_atlas.atlas.loader import inspect
from lvlm_atlas.atlas.pack import pack
from lvlm_atlas.atlas.root import PACK
from lvlm_atlas.fault import AtlasError, FaultsError
from lvlm_atlas.site.python.pins import Pins

FOLDER = "python"
"""Where it lies in a site."""
PROGRAM = "program.zip"
RUNTIME = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
"""What a page needs of Pyodide."""
_PACKAGE = Path(__file__).resolve().parents[2]
_UNUSED = {"networkx", "pygments", "markdown-it-py", "bibtexparser", "pydantic-core", "colorama"}
"""What the commands of a page do without, and pydantic-core, which is compiled anew."""
_ELSEWHERE = {"lab", "site", "sweep"}
"""Packages of ours that need libraries which a page has not."""
_WITH = ("simpy",)
"""What commands of extras need that run in a page too."""


def bundle(root: Path, fetched: Path, pins: Pins, site: Path) -> None:
    """Write the files.

    Args:
        root: the catalog.
        fetched: folder of what `fetch` fetched.
        pins: what that is.
        site: the built site.

    Raises:
        AtlasError: the installed pydantic asks for another core, or the catalog has faults.
    """
    wanted = next(each for each in _requirements("pydantic") if _folded(each.name) == "pydantic-core")
    if not wanted.specifier.contains(pins.core):
        raise AtlasError(
            f"pydantic asks for {wanted}, and {pins.core} is pinned for Python in the page; pin that, or --no-python"
        )
    folder = site / FOLDER
    folder.mkdir()
    with tarfile.open(fetched / pins.runtime_file) as packed:
        for name in RUNTIME:
            member = packed.extractfile(f"package/{name}")
            assert member is not None  # noqa: S101 - the hash says which files it has
            (folder / name).write_bytes(member.read())
    with zipfile.ZipFile(folder / PROGRAM, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as program:
        for name, content in sorted((*_libraries(), *_core(fetched / pins.core_file), *_own(root))):
            program.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # dated 1980, as all builds


def _own(root: Path) -> Iterator[tuple[str, bytes]]:
    """The program and the catalog."""
    for file in _PACKAGE.rglob("*.py"):
        place = file.relative_to(_PACKAGE)
        if place.parts[0] not in _ELSEWHERE:
            yield f"lvlm_atlas/{place.as_posix()}", file.read_bytes()
    number = version("lvlm-atlas")
    yield (
        f"lvlm_atlas-{number}.dist-info/METADATA",
        f"Metadata-Version: 2.1\nName: lvlm-atlas\nVersion: {number}\n".encode(),
    )
    whole = inspect(root)
    if whole.faults:
        raise FaultsError(whole.faults)
    yield f"lvlm_atlas/_data/{PACK}", pack(whole.records, whole.atlas.papers, digest(root))


def _core(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """The compiled part of pydantic."""
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if name.startswith("pydantic_core/") and not name.endswith(".pyi"):
                yield name, packed.read(name)


def _libraries() -> Iterator[tuple[str, bytes]]:
    """The modules of all that the program imports, as they are installed here."""
    ahead, seen = ["lvlm-atlas", *_WITH], set[str]()
    while ahead:
        name = ahead.pop()
        if name in seen | _UNUSED:
            continue
        seen.add(name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed
        ahead += [_folded(each.name) for each in _requirements(name) if each.marker is None or each.marker.evaluate()]
        for file in (installed.files or []) if name != "lvlm-atlas" else []:
            if _is_module(file):
                yield file.as_posix(), Path(str(installed.locate_file(file))).read_bytes()


def _requirements(name: str) -> list[Requirement]:
    return [each for each in map(Requirement, distribution(name).requires or ()) if "extra" not in str(each.marker)]


def _is_module(file: PurePosixPath) -> bool:
    return file.suffix == ".py" and not {"..", "__pycache__", "tests", "v1", "mypy.py"} & {*file.parts}


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")
