"""Imports point down only, as the contributor's map draws them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "lvlm_atlas"
BELOW = {
    "fault": set(),
    "needs": set(),
    "roofline": {"fault"},
    "schema": {"fault"},
    "reference": {"needs"},
    "atlas": {"schema", "fault"},
    "rules": {"atlas", "schema", "roofline", "fault"},
    "graph": {"atlas", "schema", "fault"},
    "specs": {"graph", "atlas", "schema", "roofline", "needs", "fault"},
    "drafts": {"specs", "graph", "atlas", "schema", "roofline", "fault"},
    "survey": {"specs", "graph", "atlas", "schema", "roofline", "fault"},
    "planner": {"specs", "graph", "atlas", "schema", "roofline", "fault"},
    "lab": {"specs", "graph", "atlas", "schema", "roofline", "reference", "needs", "fault"},
    "sweep": {"planner", "specs", "graph", "atlas", "schema", "roofline", "fault"},
    "site": {"planner", "survey", "specs", "graph", "atlas", "schema", "roofline", "fault"},
}
"""What each floor may import; `cli` may import all, and everybody `lvlm_atlas.load`."""
FREE = {"cli", "__main__", "__init__"}


def imports(path: Path) -> set[str]:
    """Our floors that a file imports, and the packages of others."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "lvlm_atlas" else {f"lvlm_atlas.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def files(floor: str) -> list[Path]:
    """The files of a floor: a module or a package."""
    return [*(SOURCE / floor).rglob("*.py"), *SOURCE.glob(f"{floor}.py")]


def test_every_floor_is_on_the_map() -> None:
    tops = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert tops == {*BELOW, *FREE}


@pytest.mark.parametrize("floor", BELOW)
def test_a_floor_imports_only_what_lies_below(floor: str) -> None:
    allowed = {floor, "load", *BELOW[floor]}
    wrong = {
        (path.relative_to(SOURCE), name)
        for path in files(floor)
        for name in imports(path)
        if name.startswith("lvlm_atlas.") and name.split(".")[1] not in allowed
    }
    assert not wrong


def test_the_engine_is_pure_standard_library() -> None:
    others = {
        name.split(".")[0]
        for path in files("roofline")
        for name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names
    }
    assert others == {"lvlm_atlas"}


def test_the_engine_runs_without_any_package_installed() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lvlm_atlas.roofline.estimate import estimate\n"
        "from lvlm_atlas.roofline import tokens\n"
        "tokens.rule('smart_resize')\n"
        "assert not {'pydantic', 'numpy', 'torch', 'yaml'} & set(sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(SOURCE.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
