"""Text of entries as Markdown that says the text and nothing else: no HTML, no stray marks, no broken table.

Whatever Python-Markdown or HTML could read as a sign is written as a numeric entity; code and emphasis are
written as the tags they become, so that the same text is right in a paragraph, a table cell and a heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from markupsafe import Markup

_SPACE = re.compile(r"\s+")
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\ufeff]")
_SIGN = re.compile(r"[^A-Za-z0-9 ,;()/'%.?\x80-\U0010ffff-]")
"""What may mean something inside a line: ASCII, but for letters, digits and a few signs that never do."""
_INDEXED = re.compile(r"(?<!\w)(?<!&#95;)([A-Z])&#95;(in|[a-zL])(?![A-Za-z0-9]|&#95;)")
"""A symbol of a formula with its index, written so that Markdown reads no mark in it."""
_MARKS = re.compile(r"`([^`]+)`|(?<![\w*])\*(?=[^\s*])([^*`]*[^\s*`])\*(?![\w*])")


def plain(value: object) -> Markup:
    """The text as it stands; white space is folded."""
    return _part(_SPACE.sub(" ", clean(str(value))))


def text(value: str) -> Markup:
    """The text with its `code` marks and *emphasis*, all that entries may use; indices of symbols below the line."""
    folded, done, at = _SPACE.sub(" ", clean(value)).strip(), Markup(), 0
    for mark in _MARKS.finditer(folded):
        done += _part(folded[at : mark.start()])
        done += code(mark[1]) if mark[1] is not None else Markup("<em>") + _part(mark[2]) + Markup("</em>")
        at = mark.end()
    return _lowered(done + _part(folded[at:]))


def code(value: object) -> Markup:
    """A formula, a name or a value in code type; the indices of symbols such as `N_v` stand below the line."""
    return Markup("<code>") + _lowered(plain(value)) + Markup("</code>")


def listed(items: Iterable[object], separator: str = ", ") -> Markup:
    """The items, each escaped unless it is markup already, with a separator between them."""
    return Markup(separator).join(item if isinstance(item, Markup) else plain(item) for item in items)  # noqa: S704


def external(url: str, label: object) -> Markup:
    """A link out of the site. It is followed by readers only: nothing is loaded from there."""
    safe = escape(quote(clean(url), safe=":/?#@!$&+,;=%~.-"), quote=True)
    return Markup(f'<a href="{safe}" rel="noopener">') + plain(label) + Markup("</a>")  # noqa: S704  escaped here


def fenced(value: str, language: str) -> Markup:
    """A block of code, its fence longer than any that the code holds."""
    body = clean(value).expandtabs(4)
    lines = re.split(r"\r\n|[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]", body.strip("\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return Markup("\n".join([f"{fence}{language}", *(line or " " for line in lines), fence]))  # noqa: S704  in a fence


def attribute(value: object) -> str:
    """The text for an HTML attribute, a title in the navigation or front matter, none of which Markdown reads."""
    return escape(" ".join(clean(str(value)).split()), quote=True)


def bare(value: str) -> str:
    """The text without its marks."""
    return _MARKS.sub(lambda mark: mark[1] or mark[2] or "", value)


def clean(value: str) -> str:
    """The text with the characters that no HTML page may hold made visible as `\N{REPLACEMENT CHARACTER}`."""
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", value)


def _lowered(shown: Markup) -> Markup:
    """The indices of symbols below the line, but not twice."""
    return Markup(_INDEXED.sub(r"\1<sub>\2</sub>", str(shown)))  # noqa: S704  what was escaped stays so


def _part(value: str) -> Markup:
    """A stretch of a line: its first sign might begin a list or the like, so that only a letter stays as it is."""
    inside = len(value) - len(value.lstrip()) + 1
    start = "".join(ch if ch.isalpha() or ch == " " else _entity(ch) for ch in value[:inside])
    return Markup(start + _SIGN.sub(lambda sign: _entity(sign[0]), value[inside:]))  # noqa: S704


def _entity(ch: str) -> str:
    return f"&#{ord(ch)};"
