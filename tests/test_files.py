"""Files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.files import PART, create_file, replace_file, write_all

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
        write_all(root, {OTHER: "two", NEW: "one"}, {OLD: "after", Path("folder"): "text"})
    assert files(root) == {"old.txt": "before"}


KILLED = """
import os, sys
from pathlib import Path
from lvlm_atlas.files import write_all
steps = int(sys.argv[2])
def hook(event, arguments):
    global steps
    if event in ("os.link", "os.rename", "os.remove", "os.chmod", "open", "tempfile.mkstemp"):
        steps -= 1
        if steps < 0:
            os._exit(9)
sys.addaudithook(hook)
write_all(Path(sys.argv[1]), {Path("code.py"): "code", Path("test.py"): "test", Path("entry"): "entry"},
          {Path("old.txt"): "after"})
"""


@pytest.mark.parametrize("steps", range(0, 30, 2))
def test_a_writer_killed_at_any_step_leaves_whole_files_and_can_be_run_again(root: Path, steps: int) -> None:
    """Of two texts a file holds the one or the other, and the last file is not there without the others."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(root), str(steps)], check=False)
    whole = {"code.py": "code", "test.py": "test", "old.txt": "after", "entry": "entry"}
    left = {name: text for name, text in files(root).items() if not name.endswith(PART)}
    assert left.items() <= {**whole, "old.txt": left["old.txt"]}.items()
    assert left["old.txt"] in ("before", "after")
    assert "entry" not in left or left == whole
    if killed.returncode:
        new = {Path(name): text for name, text in whole.items() if name != "old.txt"}
        with suppress(AtlasError) if "entry" in left else nullcontext():
            write_all(root, dict(sorted(new.items(), key=lambda each: each[0].name == "entry")), {OLD: "after"})
        assert {name: text for name, text in files(root).items() if not name.endswith(PART)} == whole


def test_the_kill_points_above_reach_from_the_first_step_to_behind_the_last(root: Path) -> None:
    codes = [
        subprocess.run([sys.executable, "-c", KILLED, str(root), str(steps)], check=False).returncode
        for steps in (0, 40)
    ]
    assert codes == [9, 0]


def test_what_a_killed_writer_left_goes_with_the_next_that_writes_there(tmp_path: Path) -> None:
    stale, fresh, others = tmp_path / f".a.yaml.x{PART}", tmp_path / f".a.yaml.y{PART}", tmp_path / f".b.yaml.x{PART}"
    for file in (stale, fresh, others):
        file.write_text("half")
    for file in (stale, others):
        os.utime(file, (0, 0))
    replace_file(tmp_path / "a.yaml", "whole")
    assert {*tmp_path.iterdir()} == {tmp_path / "a.yaml", fresh, others}


def test_a_file_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    real.chmod(0o600)
    link.symlink_to(real)
    replace_file(link, "after")
    assert (link.is_symlink(), real.read_text(), real.stat().st_mode & 0o777) == (True, "after", 0o600)


def test_of_many_who_create_a_file_at_once_one_succeeds(tmp_path: Path) -> None:
    def create(number: int) -> int:
        try:
            create_file(tmp_path / "file", str(number))
        except FileExistsError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 1
    assert len([*tmp_path.iterdir()]) == 1


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "record.yaml"
    kept.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AtlasError, match=r"cannot write .*record\.yaml: no space left on device; free"):
        replace_file(kept, "new")
    assert files(tmp_path) == {"record.yaml": "old"}
