"""`lvlm-atlas verify`: a line an entry and quantity, and exit 1 where one does not hold."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lvlm_atlas.cli.verify import merged_rows
from lvlm_atlas.lab.conformance import Report


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
    (path,) = (copy / "catalog" / "techniques").rglob("fastv.yaml")
    text = path.read_text("utf-8")
    path.write_text(text.replace("    scale: keep_ratio\n", "    scale: keep_ratio / 2\n"), encoding="utf-8")
    said = run("verify", "fastv", "--all", "--format", "jsonl", "--root", copy)
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 1
    assert {row["quantity"].split(": ")[0] for row in rows if not row["holds"]} == {"llm.vision-tokens"}
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


@pytest.fixture
def three(copy: Path) -> Path:
    """A catalog of three techniques, of which two cannot share a stack."""
    for path in (copy / "catalog/techniques").rglob("*.yaml"):
        if path.stem not in ("look-m", "xattention", "kivi"):
            path.unlink()
        else:
            text = path.read_text("utf-8")
            path.write_text(re.sub(r"(?ms)^interactions:.*?(?=^\w)", "", text), encoding="utf-8")
    return copy


def test_pairs_are_run_once_and_then_taken_from_what_was_kept(
    run: Callable[..., object], three: Path, tmp_path: Path
) -> None:
    where = ("--pairs", "--out", tmp_path / "out", "--root", three, "--format", "json")
    said = run("verify", "kivi", *where)
    outcomes = {row["pair"]: row["outcome"] for row in json.loads(said.out)}
    assert set(outcomes) == {"kivi + look-m", "kivi + xattention"}
    assert said.err.startswith("0 of 2 pairs on cpu, float32")
    again = run("verify", *where)
    assert again.err.startswith("2 of 2 pairs on cpu, float32")
    assert {row["pair"]: row["outcome"] for row in json.loads(again.out)} == {
        **outcomes,
        "look-m + xattention": "refused",
    }


def test_since_an_unknown_commit_is_said(run: Callable[..., object]) -> None:
    said = run("verify", "--since", "no-such-commit")
    assert said.code
    assert "--since no-such-commit: " in said.err


@pytest.mark.parametrize(("refused", "told"), [(36, False), (49, True)])
def test_a_technique_of_which_most_runs_are_refused_says_so(refused: int, told: bool) -> None:
    report = Report("fastv", lines=(), faults=(), runs=72, refused=refused, refusal="ValueError: no such layer")
    rows = [row["observed"] for row in merged_rows([report])]
    assert rows == ([f"72 runs, {refused} refused: ValueError: no such layer"] if told else [])
