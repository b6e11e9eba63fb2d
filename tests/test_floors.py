"""Imports point down only, as the contributor's map draws them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "lvlm_atlas"
BELOW = {
    "characters": set(),
    "fault": {"characters"},
    "files": {"fault"},
    "needs": set(),
    "limits": set(),
    "rows": {"fault"},
    "roofline": {"limits", "rows", "fault"},
    "schema": {"limits", "fault"},
    "reference": {"needs", "limits"},
    "atlas": {"characters", "schema", "files", "fault"},
    "rules": {"atlas", "schema", "roofline", "files", "fault"},
    "graph": {"atlas", "schema", "rows", "fault"},
    "specs": {"limits", "graph", "atlas", "schema", "roofline", "needs", "fault"},
    "drafts": {"specs", "graph", "atlas", "schema", "roofline", "files", "fault"},
    "survey": {"specs", "graph", "atlas", "schema", "roofline", "fault"},
    "planner": {"specs", "graph", "atlas", "schema", "roofline", "rows", "fault"},
    "lab": {"specs", "graph", "atlas", "schema", "roofline", "reference", "needs", "files", "fault"},
    "sweep": {"limits", "planner", "specs", "graph", "atlas", "schema", "roofline", "files", "fault"},
    "serving": {"limits", "specs", "graph", "atlas", "schema", "roofline", "rows", "fault"},
    "site": {
        "serving",
        "planner",
        "rules",
        "survey",
        "drafts",
        "specs",
        "graph",
        "atlas",
        "schema",
        "roofline",
        "files",
        "fault",
    },
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


def modules() -> dict[str, Path]:
    """Every module of ours that holds code, by its dotted name."""
    named = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        named[".".join(parts[:-1] if path.name == "__init__.py" else parts)] = path
    return named


def imported_modules(path: Path, named: dict[str, Path]) -> set[str]:
    """Our modules that a file imports anywhere in it, those for type checkers only among them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {full if (full := f"{node.module}.{a.name}") in named else node.module for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & named.keys()


def circle(graph: dict[str, set[str]]) -> set[str]:
    """What is left once modules that import nothing left, or that nothing left imports, are taken away repeatedly.

    That is nothing where there is no circle.
    """
    left = {name: used - {name} for name, used in graph.items()}
    while True:
        left = {name: used & left.keys() for name, used in left.items()}
        imported = {name for used in left.values() for name in used}
        inner = {name: used for name, used in left.items() if used and name in imported}
        if len(inner) == len(left):
            return set(left)
        left = inner


def test_no_files_import_each_other_however_long_the_way_round() -> None:
    named = modules()
    graph = {name: imported_modules(path, named) for name, path in named.items() if path.name != "__init__.py"}
    assert not circle(graph)


@pytest.mark.parametrize(
    ("graph", "left"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, set()),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "e"}, "d": {"a"}, "e": set()}, {"a", "b", "c"}),
        ({"a": {"a"}}, set()),
    ],
)
def test_a_circle_is_seen(graph: dict[str, set[str]], left: set[str]) -> None:
    assert circle(graph) == left


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
