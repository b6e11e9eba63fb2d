"""What README shows runs as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text("utf-8"), re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for language, code in BLOCKS
    if not language
    for line in code.splitlines()
    if line.startswith("lvlm-atlas ") and not line.startswith("lvlm-atlas run ")  # needs published weights
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: what `sweep` writes, `sql` reads."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_the_python_runs(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_the_commands_run(arguments: list[str], results: Path) -> None:
    if arguments[0] in ("smoke", "verify"):
        arguments = [*arguments, "fastv"]  # the whole run has its own tests
    command = [sys.executable, "-m", "lvlm_atlas", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=results)
    assert done.returncode == 0, done.stderr


def test_they_are_found_at_all() -> None:
    assert len(PYTHON) == 3
    named = {arguments[0] for arguments in COMMANDS}
    assert named >= {"list", "show", "query", "graph", "smoke", "verify", "estimate", "plan", "sweep"}
