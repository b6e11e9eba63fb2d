"""Progress where standard error is no terminal: a line at the start and a line now and then."""

from __future__ import annotations

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
