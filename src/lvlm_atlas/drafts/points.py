"""The extension points of the reference LVLM, read from their source: the module itself needs torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).parents[1] / "reference" / "lvlm" / "points.py"
_MODULE = "lvlm_atlas.reference.lvlm.points"


@dataclass(frozen=True)
class ExtensionPoint:
    """A method that a technique brings to act at a position."""

    position: str
    """Id of the position in the taxonomy."""
    method: str
    """Name of the method."""
    signature: str
    """Its first line, without the colon."""
    doc: str
    """What it gives back."""
    passes_on: str | None
    """What it returns if it changes nothing; None where a technique must make something."""
    imports: tuple[tuple[str, str], ...]
    """Module and name of each type in the signature."""


@cache
def extension_points() -> dict[str, ExtensionPoint]:
    """The extension points by position, in pipeline order."""
    tree = ast.parse(_SOURCE.read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "POINTS"
    )
    assert isinstance(table, ast.Dict)  # noqa: S101 - a test reads the table
    return {
        str(ast.literal_eval(key)): _point(str(ast.literal_eval(key)), value, tree)
        for key, value in zip(table.keys, table.values, strict=True)
        if key is not None and isinstance(value, ast.Call)
    }


def _point(position: str, entry: ast.Call, tree: ast.Module) -> ExtensionPoint:
    """The point that an entry of the table, `Point(method, context, returns, …)`, describes."""
    method, context, returns = str(ast.literal_eval(entry.args[0])), *map(ast.unparse, entry.args[1:3])
    given = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == context)
    same = [
        field.target.id
        for field in given.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and ast.unparse(field.annotation) == returns
    ]
    doc = (ast.get_docstring(given) or "").partition("Returns ")[2].partition("\n")[0]
    return ExtensionPoint(
        position=position, method=method, signature=f"def {method}(self, at: {context}) -> {returns}",
        doc=doc[:1].upper() + doc[1:], passes_on=f"at.{same[0]}" if same else None,
        imports=((_MODULE, context), *_imports(tree, returns)),
    )  # fmt: skip


def _imports(tree: ast.Module, annotation: str) -> tuple[tuple[str, str], ...]:
    """What points.py imports for an annotation."""
    used = {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}
    return tuple(
        (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "typing"
        for alias in node.names
        if alias.name in used
    )
