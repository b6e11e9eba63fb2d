"""The commands, joined from their journeys; help shows the journeys in this order."""

from __future__ import annotations

from typing import Annotated

import typer

from lvlm_atlas.cli.browse import browse
from lvlm_atlas.cli.contribute import contribute
from lvlm_atlas.cli.predict import predict
from lvlm_atlas.cli.publish import publish

app = typer.Typer(
    name="lvlm-atlas",
    help="An executable knowledge base of efficient inference for large vision-language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for journey in (browse, contribute, publish, predict):
    app.add_typer(journey)


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
