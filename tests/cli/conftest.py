"""Runs the command line in this process and tells what it said."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lvlm_atlas.cli import main


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """`run("list", "--format", "ids")` → exit code, standard output, standard error."""
    monkeypatch.delenv("LVLM_ATLAS_ROOT", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["lvlm-atlas", *map(str, arguments)])
        code = 0
        threshold = gc.get_threshold()
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            gc.set_threshold(*threshold)
            gc.unfreeze()  # the program ends with all that is left frozen; here another one follows
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return call
