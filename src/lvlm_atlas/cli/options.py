"""Options that commands share, and the atlas they point at."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lvlm_atlas.cli.completion import ids_of, queries
from lvlm_atlas.fault import AtlasError

if TYPE_CHECKING:
    from lvlm_atlas.atlas.atlas import Atlas
    from lvlm_atlas.graph.knowledge import KnowledgeBase
    from lvlm_atlas.schema.technique import Technique

Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        envvar="LVLM_ATLAS_ROOT",
        help="Folder with taxonomy/, catalog/ and papers.bib, or with atlas.yaml; default: that of the package.",
        show_default=False,
    ),
]


class Listing(StrEnum):
    """How a list is printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    md = "md"
    latex = "latex"
    ids = "ids"


Format = Annotated[Listing, typer.Option("--format", "-f", help="How to print.")]


class Report(StrEnum):
    """How an estimate is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


class Sheet(StrEnum):
    """How a record is printed."""

    table = "table"
    json = "json"


ReportFormat = Annotated[Report, typer.Option("--format", "-f", help="How to print; json is a documented contract.")]


class Device(StrEnum):
    """Where references run."""

    cpu = "cpu"
    cuda = "cuda"


DeviceOption = Annotated[Device, typer.Option("--device", help="Where to run.")]


class Dtype(StrEnum):
    """Type of weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Type of weights and activations.")]
TechniqueId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Id, former id, name or alias of a technique.", autocompletion=ids_of("technique")
    ),
]
OtherId = Annotated[
    str | None,
    typer.Argument(metavar="[OTHER]", help="Only what leads to this technique.", autocompletion=ids_of("technique")),
]
QueryText = Annotated[
    str | None, typer.Argument(metavar="[QUERY]", help="Only what this query finds.", autocompletion=queries)
]
AnyId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Id, name or alias of anything in the catalog.",
        autocompletion=ids_of("technique", "model", "device", "workload", "system", "list", "runtime"),
    ),
]
References = Annotated[
    list[str] | None,
    typer.Argument(help="Techniques; default: all that have a reference.", autocompletion=ids_of("technique")),
]


def one_of(kind: str) -> Any:
    """An argument that names one record of a kind."""
    return typer.Argument(metavar="[ID]", help="Only this one.", autocompletion=ids_of(kind))


SiteFolder = Annotated[Path, typer.Option("--out", help="Folder to write the site to.")]
SiteUrl = Annotated[
    str | None,
    typer.Option(envvar="LVLM_ATLAS_URL", help="Address it will be read at, for sitemap, feed and links to share."),
]
Repository = Annotated[
    str | None,
    typer.Option(envvar="LVLM_ATLAS_REPOSITORY", help="Address of the repository, for links to edit and report."),
]
SiteEngine = Annotated[str, typer.Option(help="What builds the HTML: mkdocs or zensical.")]


def root_of(root: Path | None) -> Path:
    """The folder that a command works on; of an overlay, all that it and the catalog that it extends hold.

    Raises:
        AtlasError: there is no such folder, or no taxonomy in it.
    """
    from lvlm_atlas.atlas.root import data_root, is_root

    if root is None:
        return data_root()
    from lvlm_atlas.atlas.overlay import resolved

    root = resolved(root)
    if not is_root(root):
        raise AtlasError(f"--root: {root} holds no taxonomy/ and no atlas.yaml; point it at a catalog")
    return root


def loaded(root: Path | None) -> Atlas:
    """The records that a command works on; drafts that are left out are named on standard error."""
    from lvlm_atlas.atlas.loader import load

    atlas = load(root_of(root))
    if root is not None:  # what comes with the package is checked
        from lvlm_atlas.atlas.dangling import warning

        if words := warning(atlas):
            typer.echo(f"{root}: {words}", err=True)
    for id_, path in atlas.drafts.items():
        typer.echo(f"{id_} is left out: it is a draft, and `lvlm-atlas check {path}` names what to fill in", err=True)
    return atlas


def opened(root: Path | None) -> KnowledgeBase:
    """The knowledge base that a command works on; as `loaded`."""
    from lvlm_atlas.graph.knowledge import KnowledgeBase

    return KnowledgeBase(loaded(root))


def named(atlas: KnowledgeBase, id_: str) -> Technique:
    """The technique that is meant; a former id is followed, and that is said on standard error.

    Raises:
        AtlasError: there is none of that id, or it was split.
    """
    technique = atlas.technique(id_)
    if id_ in atlas.atlas.redirects:
        typer.echo(f"{id_} is now {technique.id}", err=True)
    return technique
