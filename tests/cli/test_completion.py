"""What the shell offers at Tab, asked as bash asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lvlm_atlas import load

ATLAS = load().atlas
PROGRAM = "from lvlm_atlas.cli import main; import sys; sys.argv = ['lvlm-atlas']; main()"


def offered(*words: str, between: str = " ") -> set[str]:
    """What bash is offered for the last of the words."""
    asked = {"_LVLM_ATLAS_COMPLETE": "complete_bash", "COMP_WORDS": between.join(("lvlm-atlas", *words))}
    environment = {**os.environ, **asked, "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("show", "fastv"), {id_ for id_ in ATLAS.techniques if id_.startswith("fastv")}),
        (("graph", "fastv", "kiv"), {"kivi"}),
        (("models", "qwen2.5-vl-7b"), {"qwen2.5-vl-7b"}),
        (("estimate", "--model", "llava-1.5-"), {id_ for id_ in ATLAS.models if id_.startswith("llava-1.5-")}),
        (("estimate", "-d", "l40"), {"l40s"}),
        (("estimate", "--workload", "images-"), {id_ for id_ in ATLAS.workloads if id_.startswith("images-")}),
        (("estimate", "--efficiency", "t"), {"typical"}),
        (("estimate", "--stack", "fastv:"), {f"fastv:{name}=" for name in ATLAS.technique("fastv").parameters}),
        (("estimate", "--stack", "fastv+kiv"), {"fastv+kivi"}),
        (("estimate", "--stack", "tome+kivi:bits=2,gro"), {"tome+kivi:bits=2,group_size="}),
        (("plan", "--goal", "t"), {"ttft", "tpot", "total", "throughput"}),
        (("plan", "--risk", "re"), {"reported"}),
        (("terms", "stag"), {"stage"}),
        (("coverage", "survey-fig"), {"survey-figure-3"}),
        (("query", "stage:pre"), {"stage:prefilling"}),
        (("query", "mechan"), {"mechanism:"}),
        (("export", "-f", "gr"), {"graphml"}),
        (("cove",), {"coverage"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_the_shell_is_offered(words: tuple[str, ...], expected: set[str]) -> None:
    assert offered(*words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("estimate", "--stack", "fastv", ":"), {f"{name}=" for name in ATLAS.technique("fastv").parameters}),
        (("estimate", "--stack", "tome+kivi", ":", "bits", "=", "2,gro"), {"2,group_size="}),
        (("estimate", "--stack", "=", "fastv", ":", "lay"), {"layer="}),
        (("query", "stage", ":", "pre"), {"prefilling"}),
        (("export", "--format", "=", "gr"), {"graphml"}),
    ],
)  # fmt: skip
def test_bash_breaks_words_at_colons_and_is_given_the_rest(words: tuple[str, ...], expected: set[str]) -> None:
    assert offered(*words, between="\n") == expected


def test_a_value_is_left_to_the_user() -> None:
    assert offered("estimate", "--stack", "fastv:layer=") == set()


def test_words_that_nobody_completes_do_not_choose_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "lvlm-atlas show fastv")
    listed = subprocess.run(
        [sys.executable, "-m", "lvlm_atlas", "terms", "-f", "ids"], capture_output=True, text=True, check=False
    )
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "stage" in listed.stdout.split()
