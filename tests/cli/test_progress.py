"""Progress where standard error is no terminal: a line at the start, then one for each named step, or now and then."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvlm_atlas.cli import progress


def test_a_line_at_the_start_and_then_one_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 11.0, 15.0, 22.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("techniques on cpu", total=6, done=2) as advance:
        for _ in range(4):
            advance()
    assert capsys.readouterr().err.splitlines() == [
        "2 of 6 techniques on cpu",
        "4 of 6 techniques on cpu, 11 s",
        "6 of 6 techniques on cpu, 22 s",
    ]


def test_a_step_with_a_name_has_a_line_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.2, 3.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("techniques on cpu", total=2) as advance:
        advance("fastv holds")
        assert capsys.readouterr().err.splitlines() == ["0 of 2 techniques on cpu", "1 of 2: fastv holds, 0 s"]
        advance("kivi does NOT hold")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "2 of 2: kivi does NOT hold, 3 s\n")


@pytest.mark.parametrize(("command", "outcome"), [("smoke", "passed"), ("verify", "holds")])
def test_each_technique_that_ends_is_told_on_standard_error_alone(
    run: Callable[..., Any], command: str, outcome: str
) -> None:
    said = run(command, "random", "fastv")
    lines = said.err.splitlines()
    assert lines[0] == "0 of 2 techniques on cpu, float32"
    assert sorted(line.split(": ")[1].split(",")[0] for line in lines[1:3]) == [f"fastv {outcome}", f"random {outcome}"]
    assert "1 of 2" not in said.out


def test_ctrl_c_in_the_middle_ends_in_one_line(checkout: Path, interruptible: None) -> None:
    command = [sys.executable, "-m", "lvlm_atlas", "verify"]  # takes minutes
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    with subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert re.fullmatch(r"0 of \d{3} techniques on cpu, float32\n", process.stderr.readline())
        process.stderr.readline()  # one has ended, others run
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, "Traceback" in err) == ("", False)
    assert process.returncode == 130
