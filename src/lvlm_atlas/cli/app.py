"""The program: its commands, joined from their journeys."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

JOURNEYS = ("browse", "records", "contribute", "publish", "predict", "under_load", "laboratory")
"""Modules of commands, in the order in which help shows them; each holds a Typer of its own name."""


def application(command: str) -> typer.Typer:
    """The program with the one command that is called, or with all, if none has that name.

    Journeys are imported up to the one that has the command, and typer builds no other: both would take longer than a
    short command runs.
    """
    app = typer.Typer(
        name="lvlm-atlas",
        help="An executable knowledge base of efficient inference for large vision-language models.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    journeys = []
    for name in JOURNEYS:
        journey: typer.Typer = getattr(import_module(f"lvlm_atlas.cli.{name}"), name)
        for each in journey.registered_commands:
            if command == (each.name or getattr(each.callback, "__name__", "")):
                app.registered_commands = [each]
                return app
        journeys.append(journey)
    for journey in journeys:
        app.add_typer(journey)
    return app


def _version(value: bool) -> None:
    if value:
        import lvlm_atlas

        typer.echo(f"lvlm-atlas {lvlm_atlas.__version__}, data of {lvlm_atlas.load().edition}")
        raise typer.Exit


def _main(
    _: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print the versions of program and data."
        ),
    ] = False,
) -> None:
    pass
