"""Every command that a guide shows runs as shown, and every question it asks is one that can be asked."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lvlm_atlas
from lvlm_atlas.graph.guide import guide

GUIDES = sorted((Path(__file__).resolve().parents[2] / "site/pages").glob("*.md"))
ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
EXIT = re.compile(r"#\s*exit (\d)")


def commands(page: Path) -> Iterator[tuple[list[str], int]]:
    """The lines `$ lvlm-atlas …` of the page's console blocks, with the exit status they promise."""
    for block in re.findall(r"^```console(?: output)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                promised = EXIT.search(line)
                yield shlex.split(line[2:], comments=True), int(promised[1]) if promised else 0


@pytest.fixture(scope="module")
def copy(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's knowledge, for commands that write."""
    made = tmp_path_factory.mktemp("guide") / "atlas"
    for folder in ("taxonomy", "catalog", "site", "src", "tests"):
        shutil.copytree(checkout / folder, made / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("papers.bib", "pyproject.toml"):
        shutil.copy(checkout / file, made / file)
    return made


def run(arguments: list[str], copy: Path) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | {"PYTHONPATH": str(copy / "src"), "LVLM_ATLAS_ROOT": str(copy), "HOME": str(copy)}
    command = [sys.executable, "-m", "lvlm_atlas", *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run_as_shown(page: Path, copy: Path) -> None:
    for (program, *arguments), promised in commands(page):
        assert program == "lvlm-atlas"
        if arguments[:1] == ["serve"]:
            continue  # it does not end by itself; the next test runs it
        done = run(arguments, copy)
        assert done.returncode == promised, f"{arguments}: {done.stdout}{done.stderr}"


def test_the_commands_are_found_at_all() -> None:
    shown = {arguments[1] for page in GUIDES for arguments, _ in commands(page)}
    assert shown == {
        "query",
        "results",
        "show",
        "graph",
        "fields",
        "terms",
        "export",
        "new",
        "check",
        "smoke",
        "verify",
        "schema",
        "serve",
        "estimate",
        "interactions",
        "plan",
        "sweep",
        "sql",
        "systems",
        "serve-sim",
    }


def test_serve_shows_the_site(odd_root: Path, checkout: Path, tmp_path: Path) -> None:
    arguments = ["serve", "--no-python", "--port", "0", "--out", str(tmp_path / "site"), "--root", str(odd_root)]
    command = [sys.executable, "-m", "lvlm_atlas", *arguments]
    environment = ENVIRONMENT | {"PYTHONPATH": str(checkout / "src"), "HOME": str(tmp_path)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as ran:
        try:
            assert ran.stdout is not None
            assert "http://127.0.0.1:" in ran.stdout.readline()
        finally:
            ran.terminate()


def test_every_question_of_the_guide_can_be_asked(catalog: lvlm_atlas.KnowledgeBase) -> None:
    shown = guide(catalog.atlas)
    for question in shown.questions:
        catalog.query(question.query)
    for entry in (*shown.fields, *shown.relations, *shown.operators):
        catalog.query(entry.example)


def python(page: Path) -> str:
    """The Python blocks of a page, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))


@pytest.mark.parametrize("page", [page for page in GUIDES if python(page)], ids=lambda page: page.stem)
def test_the_python_of_a_guide_runs(page: Path, copy: Path) -> None:
    file = copy / f"{page.stem}_guide.py"  # a file, since dataclasses look up the source of their module
    file.write_text(python(page), encoding="utf-8")
    environment = ENVIRONMENT | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_python_of_the_query_guide_finds_something(copy: Path) -> None:
    environment = ENVIRONMENT | {"PYTHONPATH": str(copy / "src")}
    code = python(next(page for page in GUIDES if page.stem == "query"))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "kivi" in done.stdout


def test_both_languages_are_found_at_all() -> None:
    assert {page.stem for page in GUIDES if python(page)} == {"query", "reference", "plan", "estimate"}
