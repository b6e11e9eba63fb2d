"""Entries name code and tests that are there. The code is parsed, never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.rules.names import HOUSE, house_module
from lvlm_atlas.rules.rule import Files, Finding, rule
from lvlm_atlas.rules.sample import ALPHA
from lvlm_atlas.schema.technique import Technique

_PACKAGE = Path(__file__).resolve().parents[1]


@rule(
    id="missing-code",
    message="{what} is not in {module}",
    repair="correct the name, or write it",
    why="Pages show the code beside the steps, and a run begins with the class.",
    example=lambda files: files[ALPHA].update(status="implemented", reference=f"{HOUSE}.prefilling.alpha:Alpha"),
)
def missing_code(inspection: Inspection) -> Iterator[Finding]:
    """Classes and functions of references in their place; those of other packages are never looked into."""
    for path, technique in inspection.of(Technique):
        module, _, class_ = (technique.reference or "").partition(":")
        if module != house_module(technique):
            continue
        file = Path(*module.split(".")[1:]).with_suffix(".py")
        own = inspection.atlas.root / "src" / "lvlm_atlas" / file
        names = _names(own if own.is_file() else _PACKAGE / file)
        if class_ not in names:
            yield Finding(path=path, loc=("reference",), words={"what": class_ or "no class", "module": module})
            continue
        for index, step in enumerate(technique.algorithm):
            head = (step.code or "").partition(".")[0]
            if step.code and step.code not in names and f"import {head}" not in names:
                yield Finding(path=path, loc=("algorithm", index, "code"), words={"what": step.code, "module": module})


def _untested(files: Files) -> None:
    mistake = {"mistake": "Forgets something.", "test": "test_it_forgets_nothing"}
    files[ALPHA].update(status="implemented", reference="doe.alpha:Alpha", pitfalls=[mistake])
    files["tests/reference/techniques/prefilling/test_alpha.py"] = "def test_something_else(): ...\n"


@rule(
    id="missing-test",
    message="no test is called {test} in {file}",
    repair="correct the name, or write the test",
    why="A mistake that is easily made stays away only as long as a test fails for it.",
    example=_untested,
)
def missing_test(inspection: Inspection) -> Iterator[Finding]:
    """Pitfalls, where the catalog lies beside the tests of references: in a checkout."""
    root = inspection.atlas.root
    for path, technique in inspection.of(Technique):
        *_, stage, name = house_module(technique).split(".")
        file = Path("tests", "reference", "techniques", stage, f"test_{name}.py")
        if not technique.reference or not (root / file).is_file():
            continue
        tests = _names(root / file)
        for index, pitfall in enumerate(technique.pitfalls):
            if pitfall.test not in tests:
                yield Finding(path=path, loc=("pitfalls", index, "test"), words={"test": pitfall.test, "file": file})


def _names(file: Path) -> frozenset[str]:
    """What a module defines or imports (that as `import NAME` too), and `Class.method`; nothing if it is not there."""
    try:
        info = file.stat()
    except OSError:
        return frozenset()
    return _names_at(file, info.st_mtime_ns, info.st_size)


@lru_cache(maxsize=1024)
def _names_at(file: Path, _time: int, _size: int) -> frozenset[str]:
    try:
        module = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return frozenset()
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = {each.asname or each.name for each in node.names}
            names |= imported | {f"import {name}" for name in imported}
    return frozenset(names)
