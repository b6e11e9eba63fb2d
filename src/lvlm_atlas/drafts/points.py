"""The extension points of the reference LVLM, read from their source: the module itself needs torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

_LVLM = Path(__file__).parents[1] / "reference" / "lvlm"
_CONTEXTS = "lvlm_atlas.reference.lvlm.contexts"
_PASSED_ON = ("patches", "tokens", "sequence", "entries", "frames_F3HW")
"""What a technique is given and returns as it is if it does nothing."""
_UNCHANGED = {
    "Blocks | Pairs | Window | Replacement | None": "None", "Tensor | None": "None", "Projecting | None": "None",
    "bool": "False",
    "Result": "at.ask(at.run.request)",
}  # fmt: skip
"""What else leaves a run as it is, by the type that is returned."""


@dataclass(frozen=True)
class ExtensionPoint:
    """A method that a technique brings to act at a position."""

    position: str
    """Id of the position in the taxonomy."""
    method: str
    """Name of the method."""
    signature: str
    """Its first line, without the colon."""
    when: str
    """When it is called."""
    doc: str
    """What it gives back."""
    holds: tuple[tuple[str, str], ...]
    """What `at` holds: fields, properties and methods in order, each with its docstring."""
    passes_on: str | None
    """The expression that it returns if it changes nothing; None where a technique must make something."""
    imports: tuple[tuple[str, str], ...]
    """Module and name of each type in the signature."""


@cache
def extension_points() -> dict[str, ExtensionPoint]:
    """The extension points by position, in pipeline order."""
    tree, of_contexts = (ast.parse((_LVLM / name).read_text(encoding="utf-8")) for name in ("points.py", "contexts.py"))
    contexts = {node.name: node for node in of_contexts.body if isinstance(node, ast.ClassDef)}
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "POINTS"
    )
    points = {}
    for key, value in zip(table.keys, table.values, strict=True):  # type: ignore[union-attr]
        if isinstance(key, ast.Constant) and isinstance(value, ast.Call):
            method, context, returns = value.args
            position = str(key.value)
            points[position] = _point(
                position, str(ast.literal_eval(method)), contexts[ast.unparse(context)], returns, tree
            )
    return points


def _point(position: str, method: str, context: ast.ClassDef, returns: ast.expr, tree: ast.Module) -> ExtensionPoint:
    when, _, doc = (ast.get_docstring(context) or "").partition("Returns ")
    passed_on = [
        node.target.id
        for node in context.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id in _PASSED_ON
        and ast.unparse(node.annotation) == ast.unparse(returns)
    ]
    return ExtensionPoint(
        position=position,
        method=method,
        signature=f"def {method}(self, at: {context.name}) -> {ast.unparse(returns)}",
        when=_one_line(when),
        doc=doc[:1].upper() + doc[1:],
        holds=tuple(_held(context)),
        passes_on=f"at.{passed_on[0]}" if passed_on else _UNCHANGED.get(ast.unparse(returns)),
        imports=((_CONTEXTS, context.name), *_imports(tree, returns)),
    )


def _held(context: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Public names of a context, and what their docstrings say."""
    for node, behind in zip_longest(context.body, context.body[1:]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            doc = behind.value.value if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant) else ""
            name, text = node.target.id, str(doc)
        elif isinstance(node, ast.FunctionDef):
            is_field = any(ast.unparse(each) in ("property", "cached_property") for each in node.decorator_list)
            name, text = node.name + ("" if is_field else "()"), (ast.get_docstring(node) or "").split("\n\n")[0]
        else:
            continue
        if not name.startswith("_"):
            yield name, _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _imports(tree: ast.Module, returns: ast.expr) -> tuple[tuple[str, str], ...]:
    """What points.py imports for what a method returns."""
    used = {node.id for node in ast.walk(returns) if isinstance(node, ast.Name)}
    return tuple(
        (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if (alias.asname or alias.name) in used
    )
