"""Prints faults: as lines, as JSON, or as annotations that GitHub shows beside the code."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path

import typer

from lvlm_atlas.atlas.overlay import origin, origins
from lvlm_atlas.atlas.root import authored_root
from lvlm_atlas.cli.json_text import as_json
from lvlm_atlas.fault import AtlasError, Fault, suggestion
from lvlm_atlas.rules.fix import repairs, write

FORMATS = ("text", "json", "github")


def print_faults(faults: Sequence[Fault], format_: str, root: Path) -> None:
    """Print the faults, and for people how many there are.

    Lines and annotations name files as seen from the working directory, so that terminals and GitHub find them; JSON
    names them relative to the root.

    Raises:
        AtlasError: no such format.
    """
    if format_ not in FORMATS:
        raise AtlasError(f"--format: no format {format_!r}; {suggestion(format_, FORMATS)}")
    if format_ == "json":
        keys = ("path", "line", "column", "level", "rule", "message", "repair")
        typer.echo(as_json([{key: _plain(getattr(fault, key)) for key in keys} for fault in faults]))
        return
    for fault in faults:
        seen = replace(fault, path=_from_here(origin(root, fault.path)))
        typer.echo(_annotation(seen) if format_ == "github" else str(seen))
    errors = sum(fault.level == "error" for fault in faults)
    warnings = len(faults) - errors
    summary = f"{errors} fault{'s' * (errors != 1)}" + (f", {warnings} to look at" if warnings else "")
    typer.echo(f"{origins(root)[0]}: {summary if faults else 'no faults'}", err=True)


def repair_faults(root: Path, paths: Collection[Path] | None) -> None:
    """Repair what is certain, each file after its changes have been shown on standard error.

    Raises:
        AtlasError: the data belong to the installed package.
    """
    own = authored_root(root)
    for repair in repairs(root, paths):
        name = str(_from_here(own / repair.path))
        before, after = (text.splitlines(keepends=True) for text in (repair.before, repair.after))
        typer.echo("".join(unified_diff(before, after, name, name)), err=True, nl=False)
        write(own, repair)


def _from_here(path: Path) -> Path:
    """A path relative to the working directory, if it lies below."""
    here, whole = Path.cwd(), Path(os.path.abspath(path))  # noqa: PTH100 - links must stay as people wrote them
    return whole.relative_to(here) if whole.is_relative_to(here) else path


def _plain(value: object) -> object:
    return value.as_posix() if isinstance(value, Path) else value


def _annotation(fault: Fault) -> str:
    """A workflow command; its data and properties escape what would end them."""
    place = f"file={_escaped(fault.path.as_posix())},line={fault.line},col={fault.column},title={_escaped(fault.rule)}"
    text = f"{fault.message}; {fault.repair}".replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{fault.level} {place}::{text}"


def _escaped(text: str) -> str:
    for char, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C")):
        text = text.replace(char, code)
    return text
