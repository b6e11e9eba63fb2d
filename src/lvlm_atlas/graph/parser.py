"""From the text of a query to its tree. The one grammar, for the shell, Python and the site."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from lvlm_atlas.graph.expression import And, Call, Condition, Not, Or, Query, QueryError, Word, depth

MAX_LENGTH = 1000
MAX_DEPTH = 40

# A name directly before `(` is a relation, before a comparison a field; any other word is looked up.
# `-` begins no word, so that `a -b` is `a and not b` while `a-b` is one word.
GRAMMAR = r"""
?start: or
?or: and | and (_OR and)+ -> disjunction
?and: not | not (_AND? not)+ -> conjunction
?not: (_NOT | _MINUS) not -> negation
    | "(" or ")"
    | FIELD COMPARISON (VALUE | STRING) -> condition
    | RELATION "(" or ("," word)* ")" -> call
    | word
word: WORD | STRING

_OR.3: /or(?![^\s()",])/i
_AND.3: /and(?![^\s()",])/i
_NOT.3: /not(?![^\s()",])/i
_MINUS: "-"
FIELD.2: /[a-z][\w-]*(?=\s*[:<>=])/i
RELATION.2: /[a-z][\w-]*(?=\()/i
COMPARISON: /[<>]=|[:<>=]/
VALUE: /[^\s()":<>=,]+/
WORD: /(?!(and|or|not)(?![^\s()",]))[^\s()":<>=,\-][^\s()":<>=,]*/i
STRING: /"[^"]*"/
%ignore /\s+/
"""

_CONDITION = frozenset({"WORD", "STRING", "FIELD", "RELATION", "LPAR", "_NOT", "_MINUS"})
"""What may begin a condition."""
_WANTED = {
    "WORD": "a word", "VALUE": "a value", "STRING": "a phrase in quotes", "COMPARISON": "`:`", "RPAR": "`)`",
    "COMMA": "`,`", "_AND": "`and`", "_OR": "`or`", "$END": "the end",
}  # fmt: skip


def parse(text: str) -> Query:
    """The tree of a query.

    Raises:
        QueryError: it is empty, too long or too deep, or not well formed.
    """
    if not text.strip():
        raise QueryError(text, 1, "the query is empty; write for instance stage:prefilling")
    if len(text) > MAX_LENGTH:
        raise QueryError(text[:60], 1, f"the query is {len(text)} characters long; at most {MAX_LENGTH} are read")
    try:
        query: Query = _parser().parse(text)
    except UnexpectedInput as error:
        raise _explained(text, error) from None
    except _TooDeepError:
        raise QueryError(text, 1, f"the query is nested more than {MAX_DEPTH} levels deep") from None
    return query


class _TooDeepError(Exception):
    """Nesting went past the limit."""


@lru_cache(maxsize=1)
def _parser() -> Any:
    return Lark(GRAMMAR, parser="lalr", lexer="contextual", transformer=_Build(), maybe_placeholders=False)


class _Build(Transformer[Token, Query]):
    """Builds the tree from the leaves up, so that no nesting of the text can exhaust the stack."""

    def word(self, children: list[Token]) -> Word:
        (token,) = children
        return Word(_unquoted(token), _column(token))

    def condition(self, children: list[Token]) -> Condition:
        name, comparison, value = children
        return Condition(str(name), str(comparison), _unquoted(value), _column(name), _column(value))

    def call(self, children: list[Any]) -> Query:
        name, of, *extra = children
        return _checked(Call(str(name), of, tuple(extra), _column(name)))

    def negation(self, children: list[Query]) -> Query:
        return _checked(Not(children[0]))

    def conjunction(self, children: list[Query]) -> Query:
        return _checked(And(tuple(children)))

    def disjunction(self, children: list[Query]) -> Query:
        return _checked(Or(tuple(children)))


def _checked(query: Query) -> Query:
    if depth(query) > MAX_DEPTH:
        raise _TooDeepError
    return query


def _unquoted(token: Token) -> str:
    return token[1:-1] if token.type == "STRING" else str(token)


def _column(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _explained(text: str, error: UnexpectedInput) -> QueryError:
    """What was expected where, in a reader's words."""
    at = min(error.pos_in_stream or 0, len(text))
    expected: set[str] = set()
    if isinstance(error, UnexpectedToken):
        expected = set(error.accepts or error.expected)
        at = len(text.rstrip()) if error.token.type == "$END" else at
    elif isinstance(error, UnexpectedCharacters):
        expected = set(error.allowed or ())
    wanted = ["a condition"] if expected >= _CONDITION else []
    wanted += [words for name, words in _WANTED.items() if name in expected - (_CONDITION if wanted else set())]
    if text[at : at + 1] == '"':
        return QueryError(text, at + 1, "this quotation mark is not closed")
    found = repr(text[at:].split(maxsplit=1)[0]) if text[at:].strip() else "the end"
    return QueryError(text, at + 1, f"expected {' or '.join(wanted) or 'something else'}, got {found}")
