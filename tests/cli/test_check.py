"""`check`: faults as lines, JSON and annotations; roots that are none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lvlm_atlas

LINE = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+):(?P<column>\d+): (?P<rule>[a-z0-9-]+): .+; .+$")


def entry(root: Path) -> Path:
    return sorted(root.glob("catalog/techniques/*/*/*.yaml"))[0]


def test_the_atlas_has_no_faults(run) -> None:
    said = run("check")
    assert (said.code, said.out) == (0, "")
    assert "no faults" in said.err


def test_a_fault_is_a_line_with_its_place_and_exit_one(run, root: Path) -> None:
    file = entry(root)
    text = file.read_text("utf-8")
    file.write_text(re.sub(r"(?m)^stage: .*$", "stage: prefiling", text, count=1), "utf-8")
    said = run("check", "--root", root)
    assert said.code == 1
    wanted = 1 + text[: re.search(r"(?m)^stage:", text).start()].count("\n")
    first = LINE.match(said.out.splitlines()[0])
    assert first
    assert int(first["line"]) == wanted
    assert "prefilling" in said.out


def test_json_and_github_hold_the_same_faults(run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = entry(root)
    monkeypatch.chdir(root)
    file.write_text(file.read_text("utf-8") + "surprise: 1\n", "utf-8")
    lines = run("check", "--root", root).out.splitlines()
    listed = json.loads(run("check", "--root", root, "--format", "json").out)
    annotations = run("check", "--root", root, "--format", "github").out.splitlines()
    assert len(lines) == len(listed) == len(annotations) == 1
    assert lines[0].startswith(f"{listed[0]['path']}:{listed[0]['line']}:{listed[0]['column']}: {listed[0]['rule']}: ")
    assert annotations[0].startswith(f"::error file={listed[0]['path']},line={listed[0]['line']},")


def test_paths_restrict_what_is_reported(run, root: Path) -> None:
    files = sorted(root.glob("catalog/techniques/*/*/*.yaml"))
    for file in files[:2]:
        file.write_text(file.read_text("utf-8") + "surprise: 1\n", "utf-8")
    said = run("check", "--root", root, files[0])
    assert said.code == 1
    assert all(line.startswith(files[0].as_posix()) for line in said.out.splitlines())


@pytest.mark.parametrize("format_", ["text", "github"])
def test_files_are_named_as_seen_from_where_it_runs(
    run, root: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = entry(root)
    file.write_text(file.read_text("utf-8") + "surprise: 1\n", "utf-8")
    monkeypatch.chdir(root.parent)
    (line,) = run("check", "--root", root.name, "-f", format_).out.splitlines()
    assert file.relative_to(root.parent).as_posix() in re.split("[:,=]", line)


def test_the_action_checks_a_catalog_that_lies_in_a_folder(root: Path, checkout: Path) -> None:
    file = entry(root)
    file.write_text(file.read_text("utf-8") + "surprise: 1\n", "utf-8")
    action = yaml.safe_load((checkout / "action.yml").read_text("utf-8"))
    (command,) = (step["run"] for step in action["runs"]["steps"] if "check" in step.get("run", ""))
    assert set(re.findall(r"\$\{?(\w+)", command)) <= {"ROOT"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = subprocess.run(
        ["bash", "-c", command], cwd=root.parent, env={**os.environ, "PATH": path, "ROOT": root.name},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert said.stdout.startswith(f"::error file={file.relative_to(root.parent).as_posix()},line=")


def test_other_commands_refuse_a_faulty_root_with_its_faults(run, root: Path) -> None:
    entry(root).write_bytes(b"\xff\xfe")
    said = run("list", "--root", root)
    assert said.code == 1
    assert LINE.match(said.err.splitlines()[0])


@pytest.mark.parametrize("command", ["list", "check", "export", "terms"])
def test_a_root_without_a_taxonomy_is_one_clear_error(run, tmp_path: Path, command: str) -> None:
    said = run(command, "--root", tmp_path)
    assert said.code == 2
    assert "holds no taxonomy/" in said.err


def test_the_root_may_come_from_the_environment(run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVLM_ATLAS_ROOT", str(root))
    assert run("list", "-f", "ids").out.split() == run("list", "-f", "ids", "--root", root).out.split()


def test_the_editor_schemas_are_current(run, checkout: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("taxonomy", "catalog"):
        shutil.copytree(checkout / name, tmp_path / name)
    shutil.copy(checkout / "papers.bib", tmp_path)
    assert run("schema", "--root", tmp_path).code == 0
    for file in (checkout / "taxonomy" / "schema").glob("*.json"):
        fresh = (tmp_path / "taxonomy" / "schema" / file.name).read_text("utf-8")
        assert file.read_text("utf-8") == fresh, f"{file.name} is stale; run: lvlm-atlas schema --root ."


def test_a_rule_is_explained_with_an_example_and_what_check_says_of_it(run) -> None:
    text = " ".join(run("rule", "self-interaction").out.split())
    for part in ("self-interaction (error)", "An edge joins two techniques.", "with: alpha", "name another technique"):
        assert part in text
    listed = run("rule", "-f", "ids").out.split()
    assert "self-interaction" in listed
    wrong = run("rule", "self-interactoin")
    assert (wrong.code, "did you mean 'self-interaction'?" in wrong.err) == (2, True)


@pytest.mark.parametrize("command", [("list",), ("show", "alpha"), ("query", "stage:decoding"), ("graph", "alpha")])
def test_commands_say_of_a_catalog_that_ids_lead_nowhere(run, root: Path, command: tuple[str, ...]) -> None:
    assert "lead nowhere" not in run(*command, "--root", root).err
    file = entry(root)
    file.write_text(re.sub(r"(?m)^training: .*$", "training: nope", file.read_text("utf-8"), count=1), "utf-8")
    said = run(*command, "--root", root)
    assert f"{file.stem}: training 'nope' lead nowhere; `lvlm-atlas check` names them all" in said.err
    with pytest.warns(UserWarning, match="training 'nope'"):
        lvlm_atlas.load(root)
