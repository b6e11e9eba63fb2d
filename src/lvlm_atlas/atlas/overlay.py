"""A catalog of one's own on top of another: its files count, and what it lacks comes from the one that it extends.

A folder with `atlas.yaml` (`extends: lvlm-atlas`, or another folder) is such a catalog. All commands read both as one
root, a folder of the user's cache that is made anew when a file of either has changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lvlm_atlas.atlas.root import ORIGIN, data_root
from lvlm_atlas.fault import AtlasError

# Most catalogs extend none: what only overlays need is imported there.
# ruff: noqa: PLC0415

FILE = "atlas.yaml"
"""File that makes a folder an overlay."""
PACKAGED = "lvlm-atlas"
"""Name of the catalog that comes with the package."""
_PARTS = ("taxonomy", "catalog", "papers.bib", "site")
_ENTRY = re.compile(r"(?m)^@\w+\s*\{\s*([^,\s]+)\s*,")


def resolved(root: Path) -> Path:
    """The folder that holds all of a catalog: itself, or what it and the catalog that it extends come to.

    Raises:
        AtlasError: `atlas.yaml` is not as it should be, or names no catalog.
    """
    if not (root / FILE).is_file():
        return root
    import shutil
    from hashlib import sha256
    from tempfile import mkdtemp

    own, base = root.resolve(), _extended(root)
    state = sha256(repr((str(own), str(base), [*_state(own), *_state(base)])).encode()).hexdigest()[:16]
    home = _cache() / sha256(str(own).encode()).hexdigest()[:16]
    merged = home / state
    if not merged.is_dir():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = Path(mkdtemp(dir=home, prefix="half-"))
        _merge(own, base, half)
        try:
            half.rename(merged)
        except OSError:  # somebody else was faster
            shutil.rmtree(half, ignore_errors=True)
        for old in home.iterdir():
            if old != merged:
                shutil.rmtree(old, ignore_errors=True)
    return merged


def origins(root: Path) -> tuple[Path, ...]:
    """The folders that a merged one was made of, the overlay first; the root itself, if it is none."""
    file = root / ORIGIN
    return tuple(map(Path, file.read_text("utf-8").splitlines())) if file.is_file() else (root,)


def merged(root: Path, path: Path) -> Path:
    """Where a file or folder that people named lies in a root: in a merged one its copy, else where it is."""
    own, full = origins(root)[0], path.resolve()
    return root / full.relative_to(own) if own != root and full.is_relative_to(own) else path


def origin(root: Path, path: Path) -> Path:
    """The file that people wrote, of one relative to the root."""
    places = [folder / path for folder in origins(root)]
    return next((place for place in places if place.exists()), places[0])


def _extended(root: Path) -> Path:
    import yaml

    file = root / FILE
    try:
        data = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AtlasError(f"{file}: {' '.join(str(error).split())}; write `extends: {PACKAGED}`") from None
    if not isinstance(data, dict) or {*data} != {"extends"} or not isinstance(data["extends"], str):
        raise AtlasError(f"{file}: got {data!r}; write one line, `extends: {PACKAGED}` or the path of another catalog")
    base = data_root() if data["extends"] == PACKAGED else (root / data["extends"]).resolve()
    if base == root.resolve() or not (base / "taxonomy").is_dir():
        raise AtlasError(f"{file}: {data['extends']!r} is no catalog with taxonomy/; name one, or {PACKAGED}")
    return base


def _merge(own: Path, base: Path, into: Path) -> None:
    import shutil

    for source in (base, own):
        for path in _files(source):
            if path.name != "papers.bib":
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / path, target)
    (into / "papers.bib").write_text(_works(own, base), "utf-8")
    (into / ORIGIN).write_text(f"{own}\n{base}\n", "utf-8")


def _works(own: Path, base: Path) -> str:
    """Both bibliographies, one's own first, so that its lines stay where they are; of one key its own counts."""
    file = own / "papers.bib"
    text = file.read_text("utf-8") if file.is_file() else ""
    keys = set(_ENTRY.findall(text))
    parts = re.split(r"(?m)^(?=@)", (base / "papers.bib").read_text("utf-8"))
    kept = [part for part in parts if not ((entry := _ENTRY.match(part)) and entry[1] in keys)]
    return text + ("\n" if text and not text.endswith("\n") else "") + "".join(kept)


def _files(root: Path) -> Iterator[Path]:
    """Files of a catalog, relative to it; links are not followed."""
    for part in _PARTS:
        if (root / part).is_file():
            yield Path(part)
        for parent, _, names in os.walk(root / part):
            yield from ((Path(parent) / name).relative_to(root) for name in sorted(names))


def _state(root: Path) -> Iterator[tuple[str, int, int]]:
    for path in _files(root):
        info = (root / path).lstat()
        yield str(path), info.st_size, info.st_mtime_ns


def _cache() -> Path:
    from lvlm_atlas.files import cache_folder

    return cache_folder() / "overlays"
