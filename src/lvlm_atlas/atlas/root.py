"""Where the knowledge lies: beside the code in a wheel, at the repository root in a checkout."""

from __future__ import annotations

from pathlib import Path

from lvlm_atlas.fault import AtlasError

_PACKAGE = Path(__file__).resolve().parents[1]
PACK = "atlas.pack"
"""File that holds a whole catalog (`atlas/pack.py`)."""
ORIGIN = ".overlay"
"""File of a folder merged from an overlay and what it extends, that names both, the overlay first."""


def data_root() -> Path:
    """Folder that holds taxonomy/, catalog/, papers.bib and site/.

    Raises:
        FileNotFoundError: neither place has a taxonomy.
    """
    places = (_PACKAGE / "_data", _PACKAGE.parents[1])
    for root in places:
        if is_root(root):
            return root
    raise FileNotFoundError(f"no taxonomy/ in {' or '.join(map(str, places))}")


def is_root(folder: Path) -> bool:
    """Whether a folder holds a catalog."""
    return (folder / "taxonomy").is_dir() or (folder / PACK).is_file()


def authored_root(root: Path) -> Path:
    """The folder in which people keep the files of a root: itself, or of a merged one the overlay.

    Raises:
        AtlasError: it is the data of the installed package, which the next update replaces.
    """
    if (root / ORIGIN).is_file():
        root = Path((root / ORIGIN).read_text("utf-8").splitlines()[0])
    if root == _PACKAGE / "_data":
        raise AtlasError(f"{root} belongs to the installed package; point --root at a checkout or a catalog of yours")
    return root
