"""The commands that list what techniques are held against: models, devices, workloads, systems, lists and terms."""

from __future__ import annotations

from typing import Annotated

import typer

from lvlm_atlas.cli.completion import ids_of, vocabularies
from lvlm_atlas.cli.options import Format, Listing, Root, loaded, one_of, root_of
from lvlm_atlas.fault import AtlasError

records = typer.Typer()
PANEL = "Browse and query"


@records.command(rich_help_panel=PANEL)
def models(
    id_: Annotated[str | None, one_of("model")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the models that can be estimated; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import MODEL_COLUMNS, model_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(model_rows(shelves(root_of(root)), id_, format_)), MODEL_COLUMNS, format_)


@records.command(rich_help_panel=PANEL)
def hardware(
    id_: Annotated[str | None, one_of("device")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the devices; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import DEVICE_COLUMNS, device_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(device_rows(shelves(root_of(root)), id_, format_)), DEVICE_COLUMNS, format_)


@records.command(rich_help_panel=PANEL)
def workloads(
    id_: Annotated[str | None, one_of("workload")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the workloads; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import WORKLOAD_COLUMNS, workload_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(workload_rows(shelves(root_of(root)), id_, format_)), WORKLOAD_COLUMNS, format_)


@records.command(rich_help_panel=PANEL)
def runtimes(
    id_: Annotated[str | None, one_of("runtime")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the runtimes whose kernels and host estimates can take; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import RUNTIME_COLUMNS, runtime_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(runtime_rows(shelves(root_of(root)), id_, format_)), RUNTIME_COLUMNS, format_)


@records.command(rich_help_panel=PANEL)
def systems(
    id_: Annotated[str | None, one_of("system")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List serving systems and features of engines; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import SYSTEM_COLUMNS, system_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(system_rows(shelves(root_of(root)), id_)), SYSTEM_COLUMNS, format_)


@records.command(rich_help_panel=PANEL)
def coverage(
    list_id: Annotated[
        str | None,
        typer.Argument(metavar="[LIST]", help="Which list; default: count all.", autocompletion=ids_of("list")),
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Only works that are running, described, system or missing.")
    ] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Hold the catalog against published lists of techniques: what runs, what is described, what is missing."""
    from lvlm_atlas.cli.coverage import LIST_COLUMNS, WORK_COLUMNS, list_rows, work_rows
    from lvlm_atlas.cli.output import print_rows

    atlas = loaded(root)
    if list_id is None and state is not None:
        raise AtlasError(f"--state {state}: of which list? give one of {', '.join(atlas.lists)} as well")
    if list_id is None:
        rows, why = list(list_rows(atlas)), "the catalog holds no list"
        print_rows(rows, LIST_COLUMNS, format_)
    else:
        rows, why = list(work_rows(atlas, list_id, state)), f"no work of {list_id} is {state}"
        print_rows(rows, WORK_COLUMNS, format_)
    if not rows:
        typer.echo(why, err=True)
        raise typer.Exit(1)


@records.command(rich_help_panel=PANEL)
def terms(
    vocabulary: Annotated[
        str | None, typer.Argument(help="Which vocabulary; default: name them all.", autocompletion=vocabularies)
    ] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the vocabularies, or the terms of one with their definitions."""
    from lvlm_atlas.atlas.loader import taxonomy
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import term_rows

    print_rows(term_rows(taxonomy(root_of(root)), vocabulary), ("id", "name", "definition"), format_)
