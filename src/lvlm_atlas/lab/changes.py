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
    """The file of a technique's reference; None if it has none."""
    spec = find_spec(technique.reference.partition(":")[0]) if technique.reference else None
    return Path(spec.origin).resolve() if spec and spec.origin else None


def _git(folder: Path, since: str, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise AtlasError(f"--since {since} needs git; install it, or name the techniques") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise AtlasError(
            f"--since {since}: {said}; give a commit or branch of the repository that holds {folder}"
        ) from None
    return done.stdout
