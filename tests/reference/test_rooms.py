"""The rooms of the references: each imports those below it, and a technique another one only if it builds on it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvlm_atlas import load
from lvlm_atlas.schema.technique import Technique

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "src" / "lvlm_atlas" / "reference"
PACKAGE = "lvlm_atlas.reference"
LADDER = ("refusal", "ops", "flow", "caches", "drafting", "lvlm", "modules", "techniques")
"""From the ground up."""
IMPLEMENTED = [technique for technique in load(ROOT).atlas.techniques.values() if technique.reference]


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_room_is_on_the_ladder() -> None:
    rooms = {path.stem for path in REFERENCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == {*LADDER}


@pytest.mark.parametrize("room", LADDER)
def test_a_room_imports_only_those_below_it(room: str) -> None:
    allowed = LADDER[: LADDER.index(room) + 1]
    files = [*(REFERENCE / room).rglob("*.py"), *REFERENCE.glob(f"{room}.py")]
    assert files
    above = {
        (path.name, module)
        for path in files
        for module in imported(path)
        if module.startswith(f"{PACKAGE}.") and module.split(".")[2] not in allowed
    }
    assert not above


@pytest.mark.parametrize("technique", IMPLEMENTED, ids=lambda technique: technique.id)
def test_a_technique_imports_another_only_if_it_builds_on_it(technique: Technique) -> None:
    module = str(technique.reference).partition(":")[0]
    bases = {other.with_ for other in technique.interactions if other.kind == "builds-on"}
    allowed = {str(other.reference).partition(":")[0] for other in IMPLEMENTED if other.id in bases} | {module}
    used = imported(ROOT / "src" / Path(*module.split(".")).with_suffix(".py"))
    assert {name for name in used if name.startswith(f"{PACKAGE}.techniques.")} <= allowed
