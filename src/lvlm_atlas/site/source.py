"""The source of a reference as a page shows it: each line with an anchor, each step with its lines.

The source is read and parsed, never imported: pages are built where torch is not installed.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache, cached_property
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
class Snippet:
    """The code of one step."""

    lines: Lines
    html: Markup
    elsewhere: str = ""
    """The file of the package that it is imported from; empty if it stands in the reference itself."""


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
        if lines := self._own(code):
            return lines
        shared = self._imported.get(code.partition(".")[0])
        return Lines(shared.lineno, shared.end_lineno or shared.lineno) if shared else None

    def snippet(self, code: str, package: Path = _PACKAGE) -> Snippet | None:
        """The code of a step, followed to the module of the package that it is imported from; None if it is nowhere."""
        if lines := self._own(code):
            return Snippet(lines, self._listing(lines))
        name = code.partition(".")[0]
        node = self._imported.get(name)
        if node is None:
            return None
        real = next((alias.name for alias in node.names if name in (alias.asname, alias.name)), name)
        other = source_of(f"{node.module}:{real}", package)
        lines = other.lines(code.replace(name, real, 1)) if other else None
        return Snippet(lines, other._listing(lines), other.path) if other and lines else None

    def html(self) -> Markup:
        """The source with colours and line numbers, as one block of HTML whose lines have anchors."""
        numbered = (f'<a id="line-{at}">{row}</a>' for at, row in enumerate(self._rows, 1))
        return _block("\n".join(numbered), "la-source", "Source of the reference")

    def _own(self, code: str) -> Lines | None:
        for parts in (code.split("."), [self.name, *code.split(".")]):
            scope: ast.AST | None = self._tree
            for part in parts:
                scope = _named(scope, part)
            if isinstance(scope, _SCOPES):
                first = min([scope.lineno, *(mark.lineno for mark in scope.decorator_list)])
                return Lines(first, scope.end_lineno or scope.lineno)
        return None

    def _listing(self, lines: Lines) -> Markup:
        """Some of the lines, as far to the left as they can be."""
        from textwrap import dedent

        text = dedent("\n".join(self.text.splitlines()[lines.first - 1 : lines.last]))
        return _block("\n".join(_highlighted(text)), "la-snippet", f"Code: {lines.label}")

    @cached_property
    def _rows(self) -> tuple[str, ...]:
        return _highlighted(self.text)

    @cached_property
    def _tree(self) -> ast.Module | None:
        try:
            return ast.parse(self.text)
        except (SyntaxError, ValueError):
            return None

    @cached_property
    def _imported(self) -> dict[str, ast.ImportFrom]:
        """The line that imports a name."""
        lines = (node for node in getattr(self._tree, "body", ()) if isinstance(node, ast.ImportFrom))
        return {alias.asname or alias.name: node for node in lines for alias in node.names}


def source_of(reference: str | None, package: Path = _PACKAGE) -> Source | None:
    """The source of `module:Class` of our own package; None if it lies elsewhere, or there is no such module."""
    module, _, name = (reference or "").partition(":")
    top, _, rest = module.partition(".")
    if top != package.name or not rest:
        return None
    inside = Path(*rest.split("."))
    for file in (inside.with_suffix(".py"), inside / "__init__.py"):
        try:
            text = (package / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        return Source(f"src/{package.name}/{file.as_posix()}", text, name)
    return None


def _named(scope: ast.AST | None, name: str) -> ast.AST | None:
    for node in getattr(scope, "body", ()):
        if isinstance(node, _SCOPES) and node.name == name:
            return node
    return None


@cache
def _highlighted(text: str) -> tuple[str, ...]:
    """Lines of Python as HTML, with colours for words of the language, texts and comments: pages are half as large."""
    from pygments import format as formatted
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers.python import PythonLexer
    from pygments.token import Comment, Keyword, String, Text

    tokens = PythonLexer(stripnl=False).get_tokens(clean(text))
    kinds = (Comment, Keyword, String)
    coloured = ((next((each for each in kinds if kind in each), Text), value) for kind, value in tokens)
    return tuple(str(formatted(coloured, HtmlFormatter(nowrap=True))).splitlines())


def _block(body: str, class_: str, label: str) -> Markup:
    return Markup(  # noqa: S704  Pygments escapes the source
        f'<div class="highlight {class_}" role="region" aria-label="{label}" tabindex="0"><pre><code>{body}\n'
        "</code></pre></div>"
    )
