"""A fault is one line of what can be seen, whatever a file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvlm_atlas.fault import MOST_MESSAGE, Fault


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("bad\nb.yaml:1:1: forged: it is fine", "bad b.yaml:1:1: forged: it is fine"),
        ("\x1b[2K\x1b]0;title\x07 gone", r"\x1b[2K\x1b]0;title\x07 gone"),
        ("a\u202eb\u2066c\u200bd", r"a\u202eb\u2066c\u200bd"),
        ("x" * 10_000, "x" * MOST_MESSAGE + f"… ({10_000 - MOST_MESSAGE} characters more)"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_file_says_cannot_forge_a_fault_or_steer_a_terminal(said: str, shown: str) -> None:
    fault = Fault(path=Path(f"a\n{said[:3]}.yaml"), rule="r", message=said, repair=said)
    assert (fault.message, fault.repair) == (shown, shown)
    assert len(str(fault).splitlines()) == 1
    assert str(fault).isprintable()
