"""`new`: three files that run, placeholders that `check` names, and nothing half-written."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.rules.check import check

POSITIONS = [term.id for term in load().atlas.terms("position") if term.id not in ("cache", "scheduler")]


@pytest.fixture
def clone(checkout: Path, tmp_path: Path) -> Path:
    """A copy of what `new` writes into."""
    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, tmp_path / name)
    shutil.copy(checkout / "papers.bib", tmp_path)
    (tmp_path / "src" / "lvlm_atlas" / "reference" / "techniques").mkdir(parents=True)
    (tmp_path / "tests" / "reference" / "techniques").mkdir(parents=True)
    return tmp_path


def new(run, root: Path, id_: str = "my-method", **options: str):
    given = {
        "family": "token-compression.attention-guided",
        "acts-at": "llm-layer",
        "paper": "chen2024fastv",
        **options,
    }
    return run("new", id_, *(part for name, value in given.items() for part in (f"--{name}", value)), "--root", root)


@pytest.mark.parametrize("position", POSITIONS)
def test_the_three_files_are_written_for_every_extension_point(run, clone: Path, position: str) -> None:
    said = new(run, clone, **{"acts-at": position})
    assert said.code == 0
    written = [line.removeprefix("wrote ") for line in said.out.splitlines() if line.startswith("wrote ")]
    assert len(written) == 3
    for path in written:
        if path.endswith(".py"):
            ast.parse((clone / path).read_text("utf-8"))


@pytest.mark.parametrize("position", POSITIONS)
def test_an_entry_for_every_extension_point_lacks_nothing_but_what_is_to_fill_in(
    run, clone: Path, position: str
) -> None:
    new(run, clone, **{"acts-at": position})
    assert {fault.rule for fault in check(clone)} == {"placeholder"}


def test_check_names_every_place_to_fill_in(run, clone: Path) -> None:
    new(run, clone)
    faults = check(clone)
    assert {fault.rule for fault in faults} == {"placeholder"}
    entry = clone / "catalog/techniques/prefilling/token-compression/my-method.yaml"
    lines = [number for number, line in enumerate(entry.read_text("utf-8").splitlines(), 1) if "FILL IN" in line]
    named = [fault.line for fault in faults]
    assert len(named) == len(lines)
    assert all(abs(at - line) <= 1 for at, line in zip(sorted(named), lines, strict=True))


def test_a_filled_in_entry_has_no_faults(run, clone: Path) -> None:
    new(run, clone)
    entry = clone / "catalog/techniques/prefilling/token-compression/my-method.yaml"
    entry.write_text(entry.read_text("utf-8").replace("FILL IN", "Says"), "utf-8")
    assert check(clone) == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"family": "token-compresion"}, "did you mean 'token-compression'?"),
        ({"acts-at": "llm-layr"}, "did you mean 'llm-layer'?"),
        ({"acts-at": "scheduler"}, "no extension point 'scheduler'"),
        ({"paper": "chen2024fastw"}, "did you mean 'chen2024fastv'?"),
        ({"id_": "fastv"}, "the id 'fastv' is taken"),
        ({"id_": "My Method"}, "is no id"),
        ({"id_": "../../etc"}, "is no id"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(run, clone: Path, options: dict, said: str) -> None:
    before = sorted(clone.rglob("*"))
    answer = new(run, clone, **options)
    assert answer.code == 2
    assert said in answer.err
    assert sorted(clone.rglob("*")) == before


def test_a_file_that_is_there_is_never_overwritten(run, clone: Path) -> None:
    test = clone / "tests/reference/techniques/prefilling/test_my_method.py"
    test.parent.mkdir()
    test.write_text("mine")
    answer = new(run, clone)
    assert answer.code == 2
    assert test.read_text() == "mine"
    assert not (clone / "src/lvlm_atlas/reference/techniques/prefilling/my_method.py").exists()
