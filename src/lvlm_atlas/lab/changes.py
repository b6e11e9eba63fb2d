"""Which techniques changed since a commit: their entry, or the module of their reference."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.schema.technique import Technique


def changed(root: Path, techniques: Iterable[Technique], since: str) -> list[Technique]:
    """Those whose entry or module differs in the working tree from what it was at `since`, new files included.

    Args:
        root: folder of the catalog, in a git repository.
        techniques: all that could have changed.
        since: a commit, branch or tag.

    Raises:
        AtlasError: `root` lies in no repository, or it has no such commit.
    """
    top = Path(_git(root, since, "rev-parse", "--show-toplevel").strip())
    names = _git(top, since, "diff", "--name-only", since, "--").splitlines()
    names += _git(top, since, "ls-files", "--others", "--exclude-standard").splitlines()
    files = {(top / name).resolve() for name in names}
    entries = {file.stem for file in files if (root / "catalog" / "techniques").resolve() in file.parents}
    return [each for each in techniques if each.id in entries or module_of(each) in files]


def module_of(technique: Technique) -> Path | None:
    """The file of a technique's reference, found without importing it; None if it has none."""
    package, *names = (technique.reference or "").partition(":")[0].split(".")
    spec = find_spec(package) if package else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        place = Path(folder, *names)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file.resolve()
    return Path(spec.origin).resolve() if spec and spec.origin and not names else None


def _git(folder: Path, since: str, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise AtlasError(f"--since {since} needs git; install it, or name the techniques") from None
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.split())
        raise AtlasError(
            f"--since {since}: {message}; give a commit or branch of the repository that holds {folder}"
        ) from None
    return done.stdout
