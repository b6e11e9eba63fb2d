"""Drafts are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvlm_atlas.drafts.files import write_all
from lvlm_atlas.fault import AtlasError

NEW, OTHER, OLD = Path("a/new.txt"), Path("b/other.txt"), Path("old.txt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / OLD).write_text("before", "utf-8")
    return tmp_path


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text("utf-8") for path in root.rglob("*") if path.is_file()}


def test_new_files_and_changed_ones_are_written(root: Path) -> None:
    write_all(root, {NEW: "one", OTHER: "two"}, {OLD: "after"})
    assert files(root) == {"a/new.txt": "one", "b/other.txt": "two", "old.txt": "after"}
    assert (root / NEW).stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_there_keeps_all_the_others_away(root: Path) -> None:
    (root / "b").mkdir()
    (root / OTHER).write_text("mine", "utf-8")
    with pytest.raises(AtlasError, match=r"b/other\.txt exists already"):
        write_all(root, {NEW: "one", OTHER: "two"}, {OLD: "after"})
    assert files(root) == {"b/other.txt": "mine", "old.txt": "before"}


def test_a_folder_that_is_a_file_keeps_all_the_others_away(root: Path) -> None:
    with pytest.raises(AtlasError, match=r"cannot write old\.txt/new\.txt: "):
        write_all(root, {NEW: "one", OLD / "new.txt": "two"})
    assert files(root) == {"old.txt": "before"}


def test_a_file_that_cannot_be_changed_takes_the_new_ones_back(root: Path) -> None:
    (root / "folder").mkdir()
    with pytest.raises(AtlasError, match="cannot write folder: "):
        write_all(root, {NEW: "one"}, {Path("folder"): "text"})
    assert files(root) == {"old.txt": "before"}
