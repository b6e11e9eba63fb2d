"""Whatever the terminal is like, output is whole or one line says why not; never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ESTIMATE = ("estimate", "-m", "qwen2.5-vl-7b", "-d", "h200", "-w", "images-20")
COMMANDS = [
    ("list",), ("list", "-f", "json"), ("show", "fastv"), ("query", "stage:decoding", "-f", "jsonl"), ESTIMATE,
    (*ESTIMATE, "-f", "json"), ("cite", "fastv"), ("--help",),
]  # fmt: skip
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
every_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


def run(command: tuple[str, ...], **environment: str) -> subprocess.CompletedProcess[bytes]:
    program = [sys.executable, "-m", "lvlm_atlas", *command]
    return subprocess.run(program, env={**os.environ, **environment}, capture_output=True, check=False, timeout=60)


@every_command
def test_a_terminal_without_unicode_gets_all_of_it(command: tuple[str, ...]) -> None:
    done = run(command, **ASCII)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("utf-8").strip()
    if command[-1] == "json":
        wanted = json.loads(run(command).stdout)
        assert json.loads(done.stdout) == wanted


@every_command
@pytest.mark.parametrize("columns", ["0", "1", "-5", "x"])
def test_a_terminal_of_no_width_gets_something(command: tuple[str, ...], columns: str) -> None:
    done = run(command, COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.strip()


@every_command
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_one_line(command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        program = [sys.executable, "-m", "lvlm_atlas", *command]
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"cannot read or write the output: no space left on device\n")


@every_command
def test_a_closed_output_is_one_line(command: tuple[str, ...]) -> None:
    words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "lvlm_atlas", *command))
    done = subprocess.run(["/bin/sh", "-c", f"{words} >&-"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"the output is closed; give it a place to be written to\n")
