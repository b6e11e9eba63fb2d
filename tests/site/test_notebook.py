"""The notebook of the guide runs, cell by cell, as a reader would run it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pandas
import pytest


@pytest.fixture(scope="module")
def cells(checkout: Path) -> list[dict[str, Any]]:
    notebook = json.loads((checkout / "site" / "assets" / "lvlm-atlas.ipynb").read_text("utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["language_info"]["name"]) == (4, "python")
    return notebook["cells"]


def last_value(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell; returns what its last line shows."""
    *body, last = ast.parse(source).body
    exec(compile(ast.Module(body, []), "cell", "exec"), names)  # noqa: S102 - the notebook is ours
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307


def test_every_cell_runs_and_shows_something(cells: list[dict[str, Any]]) -> None:
    names: dict[str, Any] = {}
    shown = [last_value("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    assert len(shown) == 9
    assert sum(isinstance(value, pandas.DataFrame) and len(value) > 0 for value in shown) == 3
    assert sum(hasattr(value, "_repr_markdown_") for value in shown) == 3
    assert names["pruned"].ttft_s < names["plain"].ttft_s


def test_nothing_that_a_run_leaves_is_kept(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
