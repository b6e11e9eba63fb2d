"""From the text of a query to its tree. The one grammar, for the shell, Python and the site.

    query:        conjunction ("or" conjunction)*
    conjunction:  negation ("and"? negation)*
    negation:     ("not" | "-") negation | "(" query ")" | FIELD COMPARISON (VALUE | STRING)
                  | RELATION "(" query ("," word)* ")" | word
    word:         WORD | STRING

A name directly before `(` is a relation, before a comparison a field; any other word is looked up. `-` begins no word,
so that `a -b` is `a and not b` while `a-b` is one word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lvlm_atlas.graph.expression import And, Call, Condition, Not, Or, Query, QueryError, Word, depth

MAX_LENGTH = 1000
MAX_DEPTH = 40

_WORD = r"""(?!(?:and|or|not)(?![^\s()",]))[^\s()":<>=,\-][^\s()":<>=,]*|"[^"]*\""""
_SPACE = re.compile(r"\s*")
_BEGINS = re.compile(
    r"""(?P<negation>not(?![^\s()",])|-)
    |(?P<field>[a-z][\w-]*(?=\s*[:<>=]))
    |(?P<relation>[a-z][\w-]*(?=\())
    |(?P<open>\()
    |(?P<word>"""
    + _WORD
    + ")",
    re.IGNORECASE | re.VERBOSE,
)
"""What may begin a condition."""
_EXTRA = re.compile(_WORD, re.IGNORECASE | re.VERBOSE)
_FOLLOWS = re.compile(r'(?P<or>or(?![^\s()",]))|(?P<and>and(?![^\s()",]))|(?P<close>\))|(?P<comma>,)', re.IGNORECASE)
"""What may follow one, besides the next."""
_COMPARISON = re.compile(r"[<>]=|[:<>=]")
_VALUE = re.compile(r'[^\s()":<>=,]+|"[^"]*"')


def parse(text: str) -> Query:
    """The tree of a query.

    Raises:
        QueryError: it is empty, too long or too deep, or not well formed.
    """
    if not text.strip():
        raise QueryError(text, 1, "the query is empty; write for instance stage:prefilling")
    if len(text) > MAX_LENGTH:
        raise QueryError(text[:60], 1, f"the query is {len(text)} characters long; at most {MAX_LENGTH} are read")
    return _Parser(text).query()


@dataclass
class _Level:
    """A query that is being read: the whole, what stands in parentheses, or what a relation leads to."""

    relation: re.Match[str] | None = None
    is_whole: bool = False
    done: list[Query] = field(default_factory=list)
    """What `or` has already ended."""
    parts: list[Query] = field(default_factory=list)
    """Of the conjunction at hand."""
    negations: int = 0
    """How many stand before the next part."""
    wants_part: bool = True

    def add(self, query: Query) -> None:
        """Take the next part in."""
        for _ in range(self.negations):
            query = Not(query)
        self.parts.append(query)
        self.negations, self.wants_part = 0, False

    def end_conjunction(self) -> None:
        """What `or` does, and the end."""
        self.done.append(And(tuple(self.parts)) if len(self.parts) > 1 else self.parts[0])
        self.parts, self.wants_part = [], True

    def query(self) -> Query:
        """All that was read."""
        self.end_conjunction()
        return Or(tuple(self.done)) if len(self.done) > 1 else self.done[0]


class _Parser:
    """Reads a query from left to right. What is open is kept in a list, so that no nesting can exhaust the stack."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.levels = [_Level(is_whole=True)]

    def query(self) -> Query:
        """The whole query."""
        while True:
            self._skip()
            level = self.levels[-1]
            if self.at == len(self.text) and level.is_whole and not level.wants_part:
                return self._checked(level.query())
            if level.wants_part or not self._follow(level):
                self._begin(level)

    def _begin(self, level: _Level) -> None:
        """Read what begins a condition."""
        match = _BEGINS.match(self.text, self.at)
        if match is None:
            raise self._unexpected(level)
        self.at = match.end()
        kind = match.lastgroup
        if kind == "negation":
            level.negations += 1
            level.wants_part = True
            self._checked_depth(level.negations)
        elif kind == "open":
            self.levels.append(_Level())
        elif kind == "relation":
            self.at += 1
            self.levels.append(_Level(match))
        elif kind == "field":
            level.add(self._condition(match))
        else:
            level.add(_word(match))

    def _follow(self, level: _Level) -> bool:
        """Read what follows a condition; whether there was something that may."""
        match = _FOLLOWS.match(self.text, self.at)
        kind = match.lastgroup if match else None
        if match is None or (kind == "close" and level.is_whole) or (kind == "comma" and level.relation is None):
            return False
        self.at = match.end()
        if kind == "or":
            level.end_conjunction()
        elif kind == "and":
            level.wants_part = True
        else:
            extra = self._extra() if kind == "comma" else ()
            self.levels.pop()
            query = level.query()
            if level.relation is not None:
                query = Call(level.relation[0], query, extra, level.relation.start() + 1)
            self.levels[-1].add(self._checked(query))
        return True

    def _condition(self, name: re.Match[str]) -> Condition:
        self._skip()
        comparison = _COMPARISON.match(self.text, self.at)
        assert comparison is not None  # noqa: S101 - a name is a field only before one
        self.at = comparison.end()
        self._skip()
        value = _VALUE.match(self.text, self.at)
        if value is None:
            raise self._error("a value or a phrase in quotes")
        self.at = value.end()
        return Condition(name[0], comparison[0], _unquoted(value[0]), name.start() + 1, value.start() + 1)

    def _extra(self) -> tuple[Word, ...]:
        """The words behind the first comma of a call, and its end."""
        words: list[Word] = []
        while True:
            self._skip()
            word = _EXTRA.match(self.text, self.at)
            if word is None:
                raise self._error("a word or a phrase in quotes")
            self.at = word.end()
            words.append(_word(word))
            self._skip()
            if not self.text.startswith((",", ")"), self.at):
                raise self._error("`)` or `,`")
            self.at += 1
            if self.text[self.at - 1] == ")":
                return tuple(words)

    def _skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _unexpected(self, level: _Level) -> QueryError:
        if level.wants_part:
            return self._error("a condition")
        closing = [] if level.is_whole else ["`)`", "`,`"] if level.relation else ["`)`"]
        end = ["the end"] if level.is_whole else []
        if self.text[self.at : self.at + 1] in ("", ",", ")"):  # where something ends, or would
            return self._error(" or ".join([*closing, *end]))
        return self._error(" or ".join(["a condition", *closing, "`and`", "`or`", *end]))

    def _error(self, wanted: str) -> QueryError:
        """What was expected where, in a reader's words."""
        at = len(self.text.rstrip()) if self.at == len(self.text) else self.at
        if self.text[at : at + 1] == '"':
            return QueryError(self.text, at + 1, "this quotation mark is not closed")
        got = repr(self.text[at:].split(maxsplit=1)[0]) if self.text[at:].strip() else "the end"
        return QueryError(self.text, at + 1, f"expected {wanted}, got {got}")

    def _checked(self, query: Query) -> Query:
        self._checked_depth(depth(query))
        return query

    def _checked_depth(self, levels: int) -> None:
        if levels > MAX_DEPTH:
            raise QueryError(self.text, 1, f"the query is nested more than {MAX_DEPTH} levels deep")


def _word(match: re.Match[str]) -> Word:
    return Word(_unquoted(match[0]), match.start() + 1)


def _unquoted(text: str) -> str:
    return text[1:-1] if text.startswith('"') else text
