"""The commands, by journey: browse and query, contribute, run, publish; those that predict are in `predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lvlm_atlas.cli.options import Device, Dtype, Format, Listing, Root, named, opened, root_of
from lvlm_atlas.cli.predict import predict

app = typer.Typer(
    name="lvlm-atlas",
    help="An executable knowledge base of efficient inference for large vision-language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BROWSE, CONTRIBUTE, PUBLISH = "Browse and query", "Contribute", "Publish"


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"lvlm-atlas {version('lvlm-atlas')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command("list", rich_help_panel=BROWSE)
def list_(
    query: Annotated[str | None, typer.Argument(help="Only what this query finds.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List techniques, all or those that a query finds."""
    from lvlm_atlas.atlas.loader import load
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import TECHNIQUE_COLUMNS, technique_rows

    if query:
        atlas = opened(root)
        answer = atlas.query(query)
        records, found, why = atlas.atlas, [row.technique for row in answer.rows], answer.why_empty
    else:
        records = load(root_of(root))
        found, why = list(records.techniques.values()), "the catalog is empty"
    print_rows(technique_rows(records, found, format_), TECHNIQUE_COLUMNS, format_)
    if not found:
        typer.echo(why, err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id, former id, name or alias of a technique.")],
    json_: Annotated[bool, typer.Option("--json", help="Print the entry and its edges as JSON.")] = False,
    root: Root = None,
) -> None:
    """Show a technique: what its page says."""
    atlas = opened(root)
    technique = named(atlas, id_)
    if json_:
        import json

        from lvlm_atlas.cli.rows import edge_row, whole_row

        edges = [edge_row(edge) for edge in atlas.interactions(technique.id)]
        typer.echo(json.dumps({**whole_row(atlas.atlas, technique), "edges": edges}, indent=2, ensure_ascii=False))
        return
    from lvlm_atlas.cli.output import show as print_for_people
    from lvlm_atlas.cli.sheet import sheet

    print_for_people(sheet(atlas, technique))


@app.command(rich_help_panel=BROWSE)
def query(
    expression: Annotated[str, typer.Argument(help="Such as: relieves:decoding/memory and not training:finetune")],
    explain: Annotated[bool, typer.Option("--explain", help="Say why each row is there, with its evidence.")] = False,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Find techniques by fields and relations. Exit 0: rows, 1: none, 2: bad query.

    Fields compare (stage:prefilling, year>=2024), relations connect (composes-with(fastv), within(fastv, 2)),
    and, or, not and parentheses join them. `lvlm-atlas fields` lists all of them.
    """
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import TECHNIQUE_COLUMNS, reasons, technique_rows

    atlas = opened(root)
    answer = atlas.query(expression)
    rows = technique_rows(atlas.atlas, [row.technique for row in answer.rows], format_)
    if explain:
        why = {row.technique.id: reasons(row) for row in answer.rows}
        kind = "edges" if format_ in (Listing.json, Listing.jsonl) else "text"
        rows = [{**row, "because": why[row["id"]][kind]} for row in rows]
    print_rows(rows, ("id", "because") if explain else TECHNIQUE_COLUMNS, format_)
    if not rows:
        typer.echo(answer.why_empty, err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def fields(format_: Format = Listing.table, root: Root = None) -> None:
    """List the fields and relations that a query may use."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import grammar_rows

    print_rows(grammar_rows(opened(root).atlas), ("id", "meaning", "example"), format_)


@app.command(rich_help_panel=BROWSE)
def graph(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id, former id, name or alias of a technique.")],
    depth: Annotated[int, typer.Option(min=1, max=6, help="How many edges away.")] = 1,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Show how a technique is related to others: each edge with its reason and evidence."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import neighbour_row
    from lvlm_atlas.graph.neighbourhood import neighbourhood
    from lvlm_atlas.planner.planner import Planner
    from lvlm_atlas.planner.predicted import with_predictions

    atlas = with_predictions(Planner(root_of(root)))
    rows = [neighbour_row(neighbour) for neighbour in neighbourhood(atlas, named(atlas, id_).id, depth)]
    print_rows(rows, ("relation", "evidence", "reason", "source"), format_)
    if not rows:
        typer.echo(f"no interaction of {id_} is known; that does not mean that it is compatible with all", err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def models(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the models that can be estimated; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import MODEL_COLUMNS, model_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(model_rows(shelves(root_of(root)), id_)), MODEL_COLUMNS, format_)


@app.command(rich_help_panel=BROWSE)
def hardware(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the devices; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import DEVICE_COLUMNS, device_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(device_rows(shelves(root_of(root)), id_)), DEVICE_COLUMNS, format_)


@app.command(rich_help_panel=BROWSE)
def workloads(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the workloads; json holds their whole records."""
    from lvlm_atlas.atlas.shelves import shelves
    from lvlm_atlas.cli.catalog import WORKLOAD_COLUMNS, workload_rows
    from lvlm_atlas.cli.output import print_rows

    print_rows(list(workload_rows(shelves(root_of(root)), id_)), WORKLOAD_COLUMNS, format_)


app.add_typer(predict)


@app.command(rich_help_panel=CONTRIBUTE)
def check(
    paths: Annotated[list[Path] | None, typer.Argument(help="Report only the faults of these files.")] = None,
    format_: Annotated[str, typer.Option("--format", "-f", help="text, json or github.")] = "text",
    root: Root = None,
) -> None:
    """Check every record: one line a fault, all faults in one run. Exit 0: none, 1: faults, 2: bad usage."""
    from lvlm_atlas.cli.faults import print_faults
    from lvlm_atlas.rules.check import check as run

    folder = root_of(root)
    faults = run(folder, paths or None)
    print_faults(faults, format_, folder)
    if any(fault.level == "error" for fault in faults):
        raise typer.Exit(1)


@app.command(rich_help_panel=CONTRIBUTE)
def new(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of the new technique, such as my-method.")],
    family: Annotated[str, typer.Option(help="Family or subfamily; `lvlm-atlas terms family` lists them.")],
    acts_at: Annotated[str, typer.Option("--acts-at", help="Extension point that it uses.")],
    paper: Annotated[str, typer.Option(help="Key of its paper in papers.bib.")],
    name: Annotated[str | None, typer.Option(help="Its name; default: the id.")] = None,
    root: Root = None,
) -> None:
    """Write the files of a new technique: entry, reference, test. `check` then says what to fill in."""
    from lvlm_atlas.drafts.technique import scaffold

    for path in scaffold(opened(root), id_, family=family, acts_at=acts_at, paper=paper, name=name):
        typer.echo(f"wrote {path}")
    typer.echo(
        f"next: fill in what `lvlm-atlas check` names, then `lvlm-atlas smoke {id_}` and `lvlm-atlas verify {id_}`"
    )


model_app = typer.Typer(help="Add a model to the catalog.", no_args_is_help=True)
app.add_typer(model_app, name="model", rich_help_panel=CONTRIBUTE)


@model_app.command("add")
def add_model(
    config: Annotated[Path, typer.Option("--from-config", help="The model's published config.json.")],
    preprocessor: Annotated[
        Path | None, typer.Option("--preprocessor", help="Its preprocessor_config.json: limits of pixels and tiles.")
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Id of the record; default: the configuration's name.")
    ] = None,
    root: Root = None,
) -> None:
    """Draft the record of a model from its configuration. What the files do not say is left open and named."""
    from lvlm_atlas.cli.model import add_model as add

    add(root_of(root), config, preprocessor, id_)


@app.command(rich_help_panel=BROWSE)
def terms(
    vocabulary: Annotated[str | None, typer.Argument(help="Which vocabulary; default: name them all.")] = None,
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """List the vocabularies, or the terms of one with their definitions."""
    from lvlm_atlas.cli.output import print_rows
    from lvlm_atlas.cli.rows import term_rows

    print_rows(term_rows(opened(root).atlas, vocabulary), ("id", "name", "definition"), format_)


@app.command(rich_help_panel=CONTRIBUTE)
def smoke(
    ids: Annotated[list[str] | None, typer.Argument(help="Techniques; default: all that have a reference.")] = None,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.cpu,
    dtype: Annotated[Dtype, typer.Option(help="Type of weights and activations.")] = Dtype.float32,
    record: Annotated[bool, typer.Option("--record", help="Write a record under catalog/measurements.")] = False,
    time_s: Annotated[float, typer.Option("--time-s", min=1, help="Seconds that one technique may take.")] = 120,
    memory_gib: Annotated[float, typer.Option("--memory-gib", min=0.1, help="Memory that one may take.")] = 4,
    root: Root = None,
) -> None:
    """Run the references on the tiny LVLM and check what every reference must hold. Needs the torch extra."""
    from lvlm_atlas.cli.smoke import run_smoke

    failed = run_smoke(
        root_of(root), ids or [], device.value, dtype.value, record=record, time_s=time_s, memory_gib=memory_gib
    )
    if failed:
        raise typer.Exit(1)


@app.command(rich_help_panel=CONTRIBUTE)
def verify(
    ids: Annotated[list[str] | None, typer.Argument(help="Techniques; default: all that have a reference.")] = None,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.cpu,
    dtype: Annotated[Dtype, typer.Option(help="Type of weights and activations.")] = Dtype.float32,
    every: Annotated[bool, typer.Option("--all", help="A row for each run, with its setting and request.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Run them in pairs with all others, in both orders.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="REF", help="Only those that changed since a commit.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder that keeps finished pairs, so that an interrupted run goes on.")
    ] = Path("build/pairs"),
    format_: Format = Listing.table,
    root: Root = None,
) -> None:
    """Hold what references do against what their entries declare. Exit 0: all hold, 1: not. Needs the torch extra."""
    from lvlm_atlas.cli.pairs import run_pairs
    from lvlm_atlas.cli.verify import run_verify

    where = (root_of(root), ids or [], device.value, dtype.value, format_)
    failed = run_pairs(*where, since=since, out=out) if pairs else run_verify(*where, since=since, every=every)
    if failed:
        raise typer.Exit(1)


@app.command(rich_help_panel=BROWSE)
def run(
    checkpoint: Annotated[Path, typer.Option(help="Folder of a published model: config.json, safetensors.")],
    prompt: Annotated[str, typer.Option(help="What to ask about the images.")],
    image: Annotated[list[Path], typer.Option(help="An image file; repeat it for several.")],
    stack: Annotated[
        list[str] | None, typer.Option(help="A technique, such as fastv:layer=2,keep_ratio=0.5; repeat it, in order.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens after which the answer ends.")] = 64,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.cpu,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of the weights; default: the checkpoint's.")] = None,
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
    )


@app.command(rich_help_panel=CONTRIBUTE)
def schema(root: Root = None) -> None:
    """Write the JSON schemas by which editors complete and check the YAML files."""
    from lvlm_atlas.atlas.editor_schema import write_editor_schemas
    from lvlm_atlas.atlas.root import authored_root

    for path in write_editor_schemas(authored_root(root_of(root))):
        typer.echo(f"wrote {path}")


@app.command(rich_help_panel=PUBLISH)
def export(
    format_: Annotated[str, typer.Option("--format", "-f", help="json, graphml, mermaid or dot.")] = "json",
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


@app.command(rich_help_panel=PUBLISH)
def build(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the site to.")] = Path("build/site"),
    root: Root = None,
) -> None:
    """Build the site. Needs the site extra."""
    from lvlm_atlas.site.build import build as run

    typer.echo(f"built {run(opened(root), out)}")


@app.command(rich_help_panel=PUBLISH)
def serve(
    port: Annotated[int, typer.Option(envvar="PORT", min=0, max=65535, help="0 takes a free one.")] = 8000,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the site to.")] = Path("build/site"),
    root: Root = None,
) -> None:
    """Build the site and serve it on this machine. Needs the site extra."""
    from lvlm_atlas.site.build import build as run
    from lvlm_atlas.site.serve import serve as start

    start(run(opened(root), out), port)
