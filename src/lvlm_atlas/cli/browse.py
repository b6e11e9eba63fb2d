"""The commands that browse and query the catalog, and the one that runs a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lvlm_atlas.cli.completion import ids_of, queries, stacks
from lvlm_atlas.cli.options import (
    AnyId,
    Device,
    DeviceOption,
    Dtype,
    Format,
    Listing,
    OtherId,
    QueryText,
    Root,
    Sheet,
    TechniqueId,
    loaded,
    named,
    opened,
    root_of,
)
from lvlm_atlas.fault import AtlasError

browse = typer.Typer()
PANEL = "Browse and query"
EDGE_COLUMNS = ("relation", "evidence", "reason", "source")
"""What a table shows of an edge."""


@browse.command("list", rich_help_panel=PANEL)
def list_(
    query: QueryText = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List techniques, all or those that a query finds."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import technique_columns, technique_rows

    if query:
        atlas = opened(root)
        answer = atlas.query(query)
        records, techniques, why = atlas.atlas, [row.technique for row in answer.rows], answer.why_empty
    else:
        records = loaded(root)
        techniques, why = list(records.techniques.values()), "the catalog is empty"
    print_rows(technique_rows(records, techniques, format_), technique_columns(format_), format_, cut=("summary",))
    if not techniques:
        typer.echo(why, err=True)
        raise typer.Exit(1)


@browse.command(rich_help_panel=PANEL)
def show(
    id_: AnyId,
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    format_: Annotated[
        Sheet, typer.Option("--format", "-f", help="How to print; json is the record, of a technique its edges too.")
    ] = Sheet.table,
    root: Root = None,
) -> None:
    """Show whatever an id names: a technique, model, device, workload, system, list, term or work."""
    from lvlm_atlas.cli.lookup import record_json, record_sheet, records_named

    atlas = opened(root)
    named_so = records_named(atlas, id_)
    if json_ or format_ is Sheet.json:
        from lvlm_atlas.cli.json_text import as_json

        records = [record_json(atlas, each) for each in named_so]
        typer.echo(as_json(records[0] if len(records) == 1 else records))
        return
    from lvlm_atlas.cli.terminal import show as print_for_people

    for each in named_so:
        print_for_people(*record_sheet(atlas, each))


@browse.command(rich_help_panel=PANEL)
def query(
    expression: Annotated[
        str, typer.Argument(help="Such as: relieves:decoding/memory and not training:finetune", autocompletion=queries)
    ],
    explain: Annotated[bool, typer.Option("--explain", help="Say why each row is there, with its evidence.")] = False,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Find techniques by fields and relations. Exit 0: rows, 1: none, 2: bad query.

    Fields compare (stage:prefilling, year>=2024), relations connect (composes-with(fastv), within(fastv, 2)),
    and, or, not and parentheses join them. `lvlm-atlas fields` lists all of them.
    """
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import reasons, technique_columns, technique_rows

    atlas = opened(root)
    answer = atlas.query(expression)
    rows = technique_rows(atlas.atlas, [row.technique for row in answer.rows], format_)
    if explain:
        why = {row.technique.id: reasons(row) for row in answer.rows}
        kind = "edges" if format_ in (Listing.json, Listing.jsonl) else "text"
        rows = [{**row, "because": why[row["id"]][kind]} for row in rows]
    print_rows(rows, ("id", "because") if explain else technique_columns(format_), format_, cut=("summary",))
    if not rows:
        typer.echo(answer.why_empty, err=True)
        raise typer.Exit(1)


@browse.command(rich_help_panel=PANEL)
def cite(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID|QUERY]...",
            help="Techniques, queries or keys of works; default: all techniques.",
            autocompletion=ids_of("technique"),
        ),
    ] = None,
    style: Annotated[str, typer.Option("--format", "-f", help="bibtex, latex, csl or ris.")] = "bibtex",
    root: Root = None,
) -> None:
    """Print references to the works that techniques are from.

    lvlm-atlas cite "stage:prefilling training:none" fastv > references.bib
    """
    from lvlm_atlas.cli.cite import STYLES, references
    from lvlm_atlas.fault import suggestion

    if style not in STYLES:
        raise AtlasError(f"--format: no format {style!r}; {suggestion(style, STYLES)}")
    typer.echo(references(opened(root), words or (), style))


@browse.command(rich_help_panel=PANEL)
def results(
    query: Annotated[
        str | None, typer.Argument(help="Only of techniques that this query finds.", autocompletion=queries)
    ] = None,
    benchmark: Annotated[str | None, typer.Option("--benchmark", "-b", help="Only scores on this benchmark.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Only this metric: ttft, tpot, memory, …")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Only of this model: id, name or alias.", autocompletion=ids_of("model")),
    ] = None,
    comparable: Annotated[
        bool, typer.Option("--comparable", help="Only what several techniques report on the same model.")
    ] = False,
    measured: Annotated[
        bool, typer.Option("--measured", help="Only what was measured on the lab's model, alone and together.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write a .csv or .parquet file in place of a list.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the numbers that sources report, those of one benchmark and model together, most tokens kept first.

    A table that is not narrowed by option ends with what was measured on the lab's model; other formats never mix them.
    """
    from lvlm_atlas.cli.results import list_measured, list_results

    if measured:
        if benchmark or metric or model or comparable or out:
            raise AtlasError("--measured takes a query and a format alone; leave the other options out")
        list_measured(opened(root), query, format_)
        return
    list_results(opened(root), query, benchmark, metric, model, comparable, out, format_)


@browse.command(rich_help_panel=PANEL)
def fields(format_: Format = Listing.table, root: Root = None) -> None:
    """List the fields and relations that a query may use."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import grammar_rows

    print_rows(grammar_rows(opened(root).atlas), ("id", "meaning", "example", "synonyms"), format_)


@browse.command(rich_help_panel=PANEL)
def graph(
    id_: TechniqueId,
    other: OtherId = None,
    depth: Annotated[int, typer.Option(min=1, max=6, help="How many edges away.")] = 1,
    all_: Annotated[bool, typer.Option("--all", help="Leave none out of the table; other formats never do.")] = False,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Show how a technique is related to others, or to one: each edge with its reason and evidence.

    What the roofline expects of two together, `lvlm-atlas interactions A B` works out.
    """
    if other is None:
        _neighbourhood(id_, depth, all_, format_, root)
        return
    from lvlm_atlas.cli.rows import path_rows

    atlas = opened(root)
    rows = path_rows(atlas, named(atlas, id_).id, named(atlas, other).id)
    _print_edges(rows, format_)
    if not rows:
        typer.echo(f"nothing known joins {id_} and {other}; that does not mean that they are compatible", err=True)
        raise typer.Exit(1)


def _print_edges(rows: list[dict[str, Any]], format_: Listing) -> None:
    """Edges in words for people, with their ends apart for spreadsheets, the techniques at their ends as ids."""
    from lvlm_atlas.cli.output import print_rows

    if format_ is Listing.ids:
        rows = [{"id": id_} for id_ in dict.fromkeys(end for row in rows for end in (row["start"], row["end"]))]
    columns = ("start", "kind", "end", "evidence", "reason", "source") if format_ is Listing.csv else EDGE_COLUMNS
    if rows or format_ is not Listing.table:
        print_rows(rows, columns, format_)


def _neighbourhood(id_: str, depth: int, all_: bool, format_: Listing, root: Path | None) -> None:
    from lvlm_atlas.cli.plain import wrapped
    from lvlm_atlas.cli.rows import neighbour_row, neighbour_rows
    from lvlm_atlas.graph.neighbourhood import by_law, neighbourhood
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.planner.predicted import with_predictions

    atlas = with_predictions(Planner(root_of(root), opened(root)))
    technique = named(atlas, id_).id
    neighbours = neighbourhood(atlas, technique, depth)
    short = format_ is Listing.table and not all_
    rows = neighbour_rows(neighbours) if short else [neighbour_row(neighbour) for neighbour in neighbours]
    _print_edges(rows, format_)
    if format_ is Listing.table:
        for sentence in by_law(atlas, technique).sentences:
            typer.echo(wrapped(sentence, "• "))
    if not rows:
        typer.echo(f"no interaction of {id_} is known; that does not mean that it is compatible with all", err=True)
        raise typer.Exit(1)


@browse.command(rich_help_panel=PANEL)
def run(
    checkpoint: Annotated[Path, typer.Option(help="Folder of a published model: config.json, safetensors.")],
    prompt: Annotated[str, typer.Option(help="What to ask about the images.")],
    image: Annotated[list[Path], typer.Option(help="An image file; repeat it for several.")],
    stack: Annotated[
        list[str] | None,
        typer.Option(
            help="A technique, such as fastv:layer=2,keep_ratio=0.5; repeat it, in order.", autocompletion=stacks
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens after which the answer ends.")] = 64,
    device: DeviceOption = Device.cpu,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of the weights; default: the checkpoint's.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw tokens and cache, by layer and over time, as SVG.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Answer with a published checkpoint, with a stack of techniques and without. Needs the transformers extra."""
    from lvlm_atlas.cli.run import run_checkpoint

    run_checkpoint(
        opened(root),
        checkpoint,
        image,
        prompt,
        stack or [],
        max_new_tokens=max_new_tokens,
        device=device.value,
        dtype=dtype.value if dtype else None,
        listing=format_,
        plot=plot,
    )
