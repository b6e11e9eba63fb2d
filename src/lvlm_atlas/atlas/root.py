"""Where the knowledge lies: beside the code in a wheel, at the repository root in a checkout."""

from __future__ import annotations

from pathlib import Path

from lvlm_atlas.fault import AtlasError

_PACKAGE = Path(__file__).resolve().parents[1]


def data_root() -> Path:
    """Folder that holds taxonomy/, catalog/, papers.bib and site/.

    Raises:
        FileNotFoundError: neither place has a taxonomy.
    """
    places = (_PACKAGE / "_data", _PACKAGE.parents[1])
    for root in places:
        if (root / "taxonomy").is_dir():
            return root
    raise FileNotFoundError(f"no taxonomy/ in {' or '.join(map(str, places))}")


def authored_root(root: Path) -> Path:
    """The root, if people keep files there.

    Raises:
        AtlasError: it is the data of the installed package, which the next update replaces, or of an overlay.
    """
    if (root / ".overlay").is_file():
        raise AtlasError("nothing can be written through a catalog that extends another; write its files yourself")
    if root == _PACKAGE / "_data":
        raise AtlasError(f"{root} belongs to the installed package; point --root at a checkout or a catalog of yours")
    return root
