"""`lvlm-atlas verify`: a line an entry and quantity, and exit 1 where one does not hold."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def copy(tmp_path: Path, checkout: Path) -> Path:
    """A copy of the atlas that may be changed."""
    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, tmp_path / name)
    shutil.copy(checkout / "papers.bib", tmp_path)
    return tmp_path


def test_an_entry_that_holds_is_told_a_line_a_quantity(run: Callable[..., object]) -> None:
    said = run("verify", "fastv", "--format", "json")
    rows = {row["quantity"]: row for row in json.loads(said.out)}
    assert said.code == 0
    assert rows["llm.vision-tokens"]["entry"] == "fastv"
    assert "keep_ratio" in rows["llm.vision-tokens"]["declared"]
    assert rows["llm.vision-tokens"]["observed"].startswith("as declared in ")
    assert "1 of 1 entries hold" in said.err


def test_an_entry_that_does_not_hold_is_told_run_by_run(run: Callable[..., object], copy: Path) -> None:
    (path,) = copy.rglob("fastv.yaml")
    text = path.read_text("utf-8")
    path.write_text(text.replace("    scale: keep_ratio\n", "    scale: keep_ratio / 2\n"), encoding="utf-8")
    said = run("verify", "fastv", "--all", "--format", "jsonl", "--root", copy)
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 1
    assert {row["quantity"] for row in rows if not row["holds"]} == {"llm.vision-tokens"}
    assert "fastv: llm.vision-tokens: declared 384, 384, 96, 96, observed 384, 384, 192, 192" in said.err
    assert "0 of 1 entries hold" in said.err


def test_without_torch_it_says_what_to_install(run: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for command, what in (("verify", "verification needs torch"), ("smoke", "smoke tests need torch")):
        said = run(command, "fastv")
        assert said.code
        assert what in said.err
        assert "pip install 'lvlm-atlas[torch]'" in said.err


def test_an_unknown_id_is_said(run: Callable[..., object]) -> None:
    said = run("verify", "fastw")
    assert said.code
    assert "fastw" in said.err
