"""An edition changes exactly if the data do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.atlas.edition import digest


@pytest.fixture
def copy(checkout: Path, tmp_path: Path) -> Path:
    """The data of the checkout at another place."""
    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, tmp_path / name)
    shutil.copy(checkout / "papers.bib", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        lambda root: _edit(next((root / "catalog/hardware").glob("*.yaml"))),
        lambda root: _edit(next((root / "taxonomy").glob("*.yaml"))),
        lambda root: _edit(root / "papers.bib"),
        lambda root: next((root / "catalog/measurements").glob("*.yaml")).unlink(),
        lambda root: (root / "catalog/models/qwen2.5-vl-7b.yaml").rename(root / "catalog/models/qwen.yaml"),
        lambda root: _swap(*sorted((root / "catalog/workloads").glob("*.yaml"))[:2]),
    ],
    ids=["a device", "a term", "a work", "a record lost", "a name", "two contents swapped"],
)
def test_any_change_of_the_data_is_another_edition(checkout: Path, copy: Path, change: object) -> None:
    before = digest(copy)
    assert before == digest(checkout)
    assert callable(change)
    change(copy)
    assert digest(copy) != before


def test_files_that_are_no_data_change_nothing(copy: Path) -> None:
    before = digest(copy)
    (copy / "catalog/notes.txt").write_text("later", encoding="utf-8")
    assert digest(copy) == before


def test_the_date_is_that_of_the_latest_change_of_an_entry(checkout: Path) -> None:
    atlas = load(checkout)
    assert atlas.edition.date == max(t.updated for t in atlas.atlas.techniques.values())
    assert str(atlas.edition) == f"{atlas.edition.date} ({digest(checkout)})"


def _edit(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def _swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
