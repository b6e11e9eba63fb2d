"""`diff`: what changed between two editions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lvlm_atlas.rules.sample import sound, write


@pytest.fixture
def editions(tmp_path: Path) -> tuple[Path, Path]:
    """A sample catalog, and the same with a technique gone, one changed, an edge and a number more."""
    old, new = tmp_path / "old", tmp_path / "new"
    write(sound(), old)
    shutil.copytree(old, new)
    return old, new


def entries(root: Path) -> list[Path]:
    return sorted(root.glob("catalog/techniques/*/*/*.yaml"))


def edit(path: Path, change) -> str:
    data = yaml.safe_load(path.read_text("utf-8"))
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return data["id"]


def test_equal_editions_differ_in_nothing(run, editions: tuple[Path, Path]) -> None:
    said = run("diff", *editions, "-f", "json")
    assert (said.code, json.loads(said.out)) == (1, [])
    assert "0 differences" in said.err


def test_records_edges_and_numbers_are_told_apart(run, editions: tuple[Path, Path]) -> None:
    old, new = editions
    file = next(path for path in entries(new) if "interactions:" in path.read_text("utf-8"))

    def change(data) -> None:
        data["summary"] = "Another sentence."
        data["interactions"] = []
        source = {"paper": data["paper"], "place": "table 1"}
        data["reported"] = [{"model_name": "M", "source": source, "results": [{"metric": "ttft", "value": 2.5}]}]

    id_ = edit(file, change)
    rows = json.loads(run("diff", old, new, "-f", "json").out)
    found = {(row["kind"], row["change"]) for row in rows}
    assert found == {("technique", "changed"), ("edge", "removed"), ("number", "removed"), ("number", "added")}
    (technique,) = (row for row in rows if row["kind"] == "technique")
    assert (technique["id"], technique["what"]) == (id_, "summary")
    (number,) = (row for row in rows if (row["kind"], row["change"]) == ("number", "added"))
    assert number["id"] == f"{id_} ttft M"
    assert number["what"].startswith("2.5 [")
    log = run("diff", old, new, "-f", "md").out
    assert f"- technique `{id_}`: summary" in log
    assert f"- 1 reported numbers of `{id_}`" in log
    assert log.index("### Added") < log.index("### Changed") < log.index("### Removed")


def test_a_revision_of_git_is_an_edition_too(run, editions: tuple[Path, Path]) -> None:
    _, root = editions
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*git, *command], check=True, timeout=60)
    models = sorted((root / "catalog" / "workloads").glob("*.yaml"))
    id_ = edit(models[0], lambda data: data.update(text_tokens=data["text_tokens"] + 1))
    rows = json.loads(run("diff", "HEAD", "--root", root, "-f", "json").out)
    assert rows == [{"kind": "workload", "id": id_, "change": "changed", "what": "text_tokens"}]
    said = run("diff", "nonsense", "--root", root)
    assert (said.code, said.out) == (2, "")
    assert "neither a folder with taxonomy/ nor a revision" in said.err
