"""The commands that publish: the graph for other tools, the site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lvlm_atlas.cli.completion import words_of
from lvlm_atlas.cli.options import (
    Format,
    Listing,
    Repository,
    Root,
    SiteEngine,
    SiteFolder,
    SiteUrl,
    opened,
    root_of,
)

if TYPE_CHECKING:
    from lvlm_atlas.graph.knowledge import KnowledgeBase

PythonInPage = Annotated[
    bool | None,
    typer.Option(
        "--python/--no-python",
        help="Put the program itself into the site, to run in a page; default: where npm can fetch an interpreter.",
    ),
]

publish = typer.Typer()
PANEL = "Publish"


def _exports() -> tuple[str, ...]:
    from lvlm_atlas.graph.exports import EXPORTS

    return tuple(EXPORTS)


@publish.command(rich_help_panel=PANEL)
def export(
    format_: Annotated[
        str,
        typer.Option(
            "--format", "-f", help="json, graphml, csv, turtle, mermaid or dot.", autocompletion=words_of(_exports)
        ),
    ] = "json",
    root: Root = None,
) -> None:
    """Print the knowledge graph for other tools."""
    from lvlm_atlas.fault import AtlasError, suggestion
    from lvlm_atlas.graph.exports import EXPORTS

    if format_ not in EXPORTS:
        raise AtlasError(f"--format: no format {format_!r}; {suggestion(format_, EXPORTS)}")
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.planner.predicted import with_predictions

    sys.stdout.write(EXPORTS[format_](with_predictions(Planner(root_of(root)))))


@publish.command(rich_help_panel=PANEL)
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A folder with taxonomy/, or a git revision.")],
    new: Annotated[str, typer.Argument(metavar="[NEW]", help="The same; default: the data as they are.")] = "",
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Tell what changed between two editions: entries, edges, numbers. md is a change log. Exit 1: nothing.

    lvlm-atlas diff v0.1.0 -f md
    """
    from lvlm_atlas.cli.difference import print_differences

    folder = root_of(root)
    if not print_differences(old, new or str(folder), folder, format_):
        raise typer.Exit(1)


@publish.command(rich_help_panel=PANEL)
def mcp(root: Root = None) -> None:
    """Answer agents on standard input and output, by the Model Context Protocol. Needs the mcp extra."""
    from lvlm_atlas.cli.agent import server

    server(root_of(root)).run("stdio")


@publish.command(rich_help_panel=PANEL)
def build(
    out: SiteFolder = Path("build/site"),
    url: SiteUrl = None,
    repository: Repository = None,
    engine: SiteEngine = "mkdocs",
    python: PythonInPage = None,
    root: Root = None,
) -> None:
    """Build the site. Needs the site extra."""
    from lvlm_atlas.site.engines import require

    require(engine)
    from lvlm_atlas.site.build import build as run
    from lvlm_atlas.site.published import published

    kb = opened(root)
    built = run(kb, out, published=published(url, repository), engine=engine, python=_python(kb, python))
    typer.echo(f"built {built}")


@publish.command(rich_help_panel=PANEL)
def serve(
    port: Annotated[int, typer.Option(envvar="PORT", min=0, max=65535, help="0 takes a free one.")] = 8000,
    out: SiteFolder = Path("build/site"),
    python: PythonInPage = None,
    root: Root = None,
) -> None:
    """Build the site and serve it on this machine. Needs the site extra."""
    from lvlm_atlas.site.engines import require

    require("mkdocs")
    from lvlm_atlas.site.build import build as run
    from lvlm_atlas.site.serve import serve as start

    kb = opened(root)
    start(run(kb, out, python=_python(kb, python)), port)


def _python(kb: KnowledgeBase, wanted: bool | None) -> bool:
    """Whether the program goes into the site: as asked, else where an interpreter for it can be fetched."""
    if wanted is not None:
        return wanted
    from lvlm_atlas.fault import AtlasError
    from lvlm_atlas.site.build import source_of
    from lvlm_atlas.site.python.fetch import fetch
    from lvlm_atlas.site.python.pins import pins

    try:
        fetch(pins(source_of(kb.atlas.root)))
    except AtlasError as error:
        typer.echo(f"the site comes without Python in it: {error}", err=True)
        return False
    return True
