"""Holds two editions of the data against each other: folders, or revisions of a git repository."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from lvlm_atlas.atlas.overlay import resolved
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.cli.output import print_rows
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.difference import Difference, differences
from lvlm_atlas.graph.knowledge import KnowledgeBase

COLUMNS = ("kind", "id", "change", "what")


def print_differences(old: str, new: str, root: Path, listing: Listing) -> int:
    """Print what changed from one edition to another, as Markdown in the form of a change log; returns how much.

    Raises:
        AtlasError: an edition is neither a folder with data nor a revision of the repository that holds `root`.
    """
    with _edition(old, root) as before, _edition(new, root) as after:
        found = differences(before, after)
        title = f"{before.edition} → {after.edition}"
    if listing is Listing.md:
        typer.echo("\n".join(_change_log(title, found)))
    else:
        print_rows([asdict(each) for each in found], COLUMNS, listing, cut=("what",))
        typer.echo(f"{title}: {len(found)} differences", err=True)
    return len(found)


@contextmanager
def _edition(name: str, root: Path) -> Iterator[KnowledgeBase]:
    import lvlm_atlas

    if (resolved(Path(name)) / "taxonomy").is_dir():
        yield lvlm_atlas.load(name)
        return
    with TemporaryDirectory() as folder:
        _unpack(name, root, Path(folder))
        yield lvlm_atlas.load(folder)


def _unpack(revision: str, root: Path, folder: Path) -> None:
    """Write the data of a revision into a folder."""
    command = ["git", "-C", str(root), "archive", "--format=tar", revision, "taxonomy", "catalog", "papers.bib"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - no shell
    except FileNotFoundError:
        raise AtlasError(
            f"{revision!r} is no folder with taxonomy/, and git, for revisions, is not installed"
        ) from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode(errors="replace").split())
        raise AtlasError(
            f"{revision!r} is neither a folder with taxonomy/ nor a revision of the repository at {root}: {said}"
        ) from None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _change_log(title: str, found: list[Difference]) -> Iterator[str]:
    """A section for each change, as in CHANGELOG.md."""
    yield f"## Data: {title}"
    for change, heading in (("added", "Added"), ("changed", "Changed"), ("removed", "Removed")):
        chosen = [each for each in found if each.change == change]
        if chosen:
            yield f"\n### {heading}\n"
            for kind, group in groupby(chosen, key=lambda each: each.kind):
                if kind == "number":
                    counts = Counter(each.id.partition(" ")[0] for each in group)
                    yield from (f"- {count} reported numbers of `{id_}`" for id_, count in counts.items())
                else:
                    yield from (f"- {kind} `{each.id}`{f': {each.what}' if each.what else ''}" for each in group)
