"""Which techniques changed since a commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.lab.changes import changed
from lvlm_atlas.schema.technique import Technique

KB = load()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Technique]]:
    """Two entries and their modules, committed; the second is of a package of its own."""
    entries = tmp_path / "catalog" / "techniques" / "prefilling"
    modules = tmp_path / "changes_sample"
    for folder in (entries, modules):
        folder.mkdir(parents=True)
    (modules / "__init__.py").touch()
    for name in ("fastv", "kivi", "tome"):
        (entries / f"{name}.yaml").write_text(name)
        (modules / f"{name}.py").write_text("class Reference: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "First")
    techniques = [
        KB.technique(name).model_copy(update={"reference": f"changes_sample.{name}:Reference"})
        for name in ("fastv", "kivi", "tome")
    ]
    return tmp_path, techniques


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


def test_an_entry_or_a_module_that_differs_counts_committed_or_not(repository: tuple[Path, list[Technique]]) -> None:
    root, techniques = repository
    assert changed(root, techniques, "main") == []
    (root / "catalog/techniques/prefilling/fastv.yaml").write_text("other")
    (root / "changes_sample/tome.py").write_text("class Reference: pass\n")
    assert [each.id for each in changed(root, techniques, "main")] == ["fastv", "tome"]


def test_a_new_entry_counts_before_it_is_added(repository: tuple[Path, list[Technique]]) -> None:
    root, techniques = repository
    git(root, "rm", "-q", "--cached", "catalog/techniques/prefilling/kivi.yaml")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "Second")
    assert [each.id for each in changed(root, techniques, "HEAD")] == ["kivi"]


def test_an_unknown_commit_and_a_folder_outside_a_repository_are_named(
    repository: tuple[Path, list[Technique]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, techniques = repository
    with pytest.raises(AtlasError, match=r"--since nowhere: .*; give a commit or branch"):
        changed(root, techniques, "nowhere")
    with pytest.raises(AtlasError, match=r"--since main: .*not a git repository.*; give a commit or branch"):
        changed(tmp_path_factory.mktemp("bare"), techniques, "main")
