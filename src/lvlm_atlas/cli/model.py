"""Drafts records of models, and says what is left to do."""

from __future__ import annotations

from pathlib import Path

import typer

from lvlm_atlas.atlas.root import authored_root
from lvlm_atlas.drafts.model import drafted
from lvlm_atlas.drafts.model.write import write


def add_model(root: Path, config: Path, preprocessor: Path | None, id_: str | None) -> None:
    """Draft and write a record; every number that was not read from the files is named on standard error.

    Raises:
        AtlasError: a file is no configuration of a known family, the record is there already, or the root cannot be
            written.
    """
    own = authored_root(root)
    draft = drafted(config, preprocessor, id_)
    path = write(own, draft)
    for note in draft.notes:
        typer.echo(f"note: {note}", err=True)
    for line in draft.open:
        typer.echo(f"left open: {line}", err=True)
    typer.echo(f"wrote {path}")
    typer.echo(f"next: fill in what `lvlm-atlas check {path}` names")
