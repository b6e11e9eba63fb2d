"""The extension points of the reference LVLM, read from their source: the module itself needs torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).parents[1] / "reference" / "lvlm" / "points.py"
_PASSED_ON = ("patches", "sequence", "entries", "frames_F3HW")
"""Arguments that a technique which does nothing returns as they are."""


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
    """The argument that it returns if it changes nothing; None where a technique must make something."""
    imports: tuple[tuple[str, str], ...]
    """Module and name of each type in the signature."""
    flags: tuple[str, ...] = ()
    """Class attributes that the point asks for besides, all of them truth values."""


@cache
def extension_points() -> dict[str, ExtensionPoint]:
    """The extension points by position, in pipeline order."""
    tree = ast.parse(_SOURCE.read_text(encoding="utf-8"))
    protocols = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "POINTS"
    )
    return {
        str(key.value): _point(str(key.value), protocols[value.id], tree)
        for key, value in zip(table.keys, table.values, strict=True)  # type: ignore[union-attr]
        if isinstance(key, ast.Constant) and isinstance(value, ast.Name)
    }


def _point(position: str, protocol: ast.ClassDef, tree: ast.Module) -> ExtensionPoint:
    method = next(node for node in protocol.body if isinstance(node, ast.FunctionDef))
    flags = tuple(
        node.target.id
        for node in protocol.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )
    passed_on = [argument.arg for argument in method.args.args if argument.arg in _PASSED_ON]
    returns = ast.unparse(method.returns) if method.returns else "None"
    return ExtensionPoint(
        position=position, method=method.name, signature=f"def {method.name}({ast.unparse(method.args)}) -> {returns}",
        doc=ast.get_docstring(method) or "", passes_on=passed_on[-1] if passed_on else None,
        imports=(*_imports(tree, method), *((("typing", "ClassVar"),) if flags else ())), flags=flags,
    )  # fmt: skip


def _imports(tree: ast.Module, method: ast.FunctionDef) -> tuple[tuple[str, str], ...]:
    """What points.py imports for the method's annotations."""
    used = {node.id for node in ast.walk(method) if isinstance(node, ast.Name)}
    return tuple(
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "typing"
        for alias in node.names
        if alias.name in used
    )
