"""The source of a reference as a page shows it: each line with an anchor, each step with its lines.

The source is read and parsed, never imported: pages are built where torch is not installed.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lvlm_atlas.site.markup import clean

_PACKAGE = Path(__file__).resolve().parents[1]
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Lines:
    """A run of lines, counted from 1, both ends included."""

    first: int
    last: int

    @property
    def label(self) -> str:
        """As in `lines 3–7`."""
        return f"line {self.first}" if self.first == self.last else f"lines {self.first}–{self.last}"

    @property
    def anchor(self) -> str:
        """Anchor of the first line."""
        return f"line-{self.first}"


@dataclass(frozen=True)
class Source:
    """The module of a reference."""

    path: str
    """Its path inside the package."""
    text: str
    name: str
    """The technique's class."""

    def lines(self, code: str) -> Lines | None:
        """Where a step's function is: one of the module, of the class, or `Class.method`; None if nowhere.

        A function that several techniques share is where the module imports it.
        """
        for parts in (code.split("."), [self.name, *code.split(".")]):
            scope: ast.AST | None = self._tree()
            for part in parts:
                scope = _named(scope, part)
            if isinstance(scope, _SCOPES):
                first = min([scope.lineno, *(mark.lineno for mark in scope.decorator_list)])
                return Lines(first, scope.end_lineno or scope.lineno)
        shared = code.partition(".")[0]
        for node in getattr(self._tree(), "body", ()):
            if isinstance(node, ast.ImportFrom) and shared in {alias.name for alias in node.names}:
                return Lines(node.lineno, node.end_lineno or node.lineno)
        return None

    def html(self) -> Markup:
        """The source with colours and line numbers that are links, as one block of HTML."""
        from pygments import highlight
        from pygments.formatters.html import HtmlFormatter
        from pygments.lexers.python import PythonLexer

        rows = highlight(clean(self.text), PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()
        numbered = (
            f'<span id="line-{at}" class="la-line"><a href="#line-{at}" aria-label="line {at}" data-line="{at}"></a>'
            f"{row}</span>"
            for at, row in enumerate(rows, 1)
        )
        body = "\n".join(numbered)
        return Markup(  # noqa: S704  Pygments escapes the source
            '<div class="highlight la-source" role="region" aria-label="Source of the reference" '
            f'tabindex="0"><pre><code>{body}\n</code></pre></div>'
        )

    def _tree(self) -> ast.Module | None:
        try:
            return ast.parse(self.text)
        except (SyntaxError, ValueError):
            return None


def source_of(reference: str | None, package: Path = _PACKAGE) -> Source | None:
    """The source of `module:Class` of our own package; None if it lies elsewhere, or there is no such module."""
    module, _, name = (reference or "").partition(":")
    top, _, rest = module.partition(".")
    if top != package.name or not rest:
        return None
    inside = Path(*rest.split(".")).with_suffix(".py")
    try:
        text = (package / inside).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return Source(f"src/{package.name}/{inside.as_posix()}", text, name)


def _named(scope: ast.AST | None, name: str) -> ast.AST | None:
    for node in getattr(scope, "body", ()):
        if isinstance(node, _SCOPES) and node.name == name:
            return node
    return None
