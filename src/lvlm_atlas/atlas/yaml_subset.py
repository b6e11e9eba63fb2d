"""The YAML that entries are written in: plain mappings, lists and scalars, with nothing that YAML only guesses.

Events of the C parser are turned into data in one loop without recursion. What YAML reads by accident
(dates, `yes`, octal and sexagesimal numbers, anchors, tags, merge keys, duplicate keys) is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from lvlm_atlas.characters import HIDDEN

Loc = tuple[str | int, ...]
"""Where in a document: keys and indices."""

MAX_DEPTH = 40

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster, and may be missing
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
_GUESS = re.compile(
    r"(?P<truth>(?i:yes|no|on|off|true|false))"
    r"|(?P<null>(?i:null))"
    r"|(?P<date>\d{4}-\d\d?-\d\d?(?:[Tt ]+[\d:.+ Zz-]*)?)"
    r"|(?P<clock>[-+]?\d[\d_]*(?::[0-5]?\d)+(?:\.\d*)?)"
    r"|(?P<base>[-+]?0[0-9_]+|[-+]?0[xob][0-9a-fA-F_]+|[-+]?\d[\d_]*_\d*)"
    r"|(?P<infinite>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
    r"|(?P<merge><<|=)"
    r"|(?P<int>[-+]?(?:0|[1-9]\d*))"
    r"|(?P<float>[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+)"
)
_PROBLEMS = {
    "truth": ("ambiguous-value", "{!r} is a truth value to some readers", "write true or false, or quote the word"),
    "null": ("ambiguous-value", "{!r} is nothing to some readers", "write null, or quote the word"),
    "date": ("ambiguous-value", "{!r} is a date to YAML", "quote it: '{}'"),
    "clock": ("ambiguous-value", "{!r} is a number to base 60 in YAML", "quote it: '{}'"),
    "base": ("ambiguous-value", "{!r} is octal, hexadecimal or grouped digits", "write it plainly, or quote it"),
    "infinite": ("ambiguous-value", "{!r} is not a finite number", "give a finite number, or quote it"),
    "merge": ("yaml-feature", "{!r} is a merge mark, which entries may not use", "write the keys out, or quote it"),
}
_MAX_DIGITS = 18


class YamlFault(Exception):  # noqa: N818 - one fault of one document; it never leaves the atlas floor
    """The text is not such YAML. `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, rule: str, message: str, repair: str) -> None:
        super().__init__(message)
        self.line, self.column, self.rule, self.message, self.repair = line, column, rule, message, repair


@dataclass(frozen=True)
class Place:
    """Where a value stands in its text; lines and columns count from 1."""

    key: tuple[int, int]
    """Line and column of its key, or of the item in a list."""
    value: tuple[int, int]
    """Line and column of the value itself; those of the key for mappings, lists and empty values."""
    raw: str | None
    """A scalar as it is written; None for mappings and lists."""


def parse(text: str, places: dict[Loc, Place] | None = None) -> dict[str, Any]:
    """The one mapping that `text` holds; lists come as tuples. `places`, if given, is filled.

    Raises:
        YamlFault: the first thing in the text that entries may not hold.
    """
    parser = None
    try:
        parser = _PARSER(text)
        return _document(parser, places)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        detail = ", ".join(filter(None, (error.problem, error.context)))
        raise YamlFault(line, column, "yaml-syntax", detail, "correct the YAML at or above this place") from None
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise YamlFault(1, 1, "yaml-syntax", detail, "save the file as plain UTF-8 text") from None
    finally:
        if parser is not None:
            parser.dispose()


def _document(parser: Any, places: dict[Loc, Place] | None) -> dict[str, Any]:
    parser.get_event()  # the stream's start
    if not isinstance(parser.get_event(), yaml.DocumentStartEvent):
        raise YamlFault(1, 1, "empty-file", "the file holds nothing", "write the record, or remove the file")
    start = parser.peek_event()
    if not isinstance(start, yaml.MappingStartEvent):
        what = "a list" if isinstance(start, yaml.SequenceStartEvent) else "a single value"
        if isinstance(start, yaml.ScalarEvent) and not start.value:
            raise _fault(start, "empty-file", "the file holds nothing", "write the record, or remove the file")
        raise _fault(start, "not-a-mapping", f"the file holds {what}", "begin with `key: value` lines")
    data = _mapping(parser, places)
    parser.get_event()  # the document's end
    after = parser.get_event()
    if isinstance(after, yaml.DocumentStartEvent):
        raise _fault(after, "several-documents", "a second document begins here", "keep one record a file")
    return data


def _mapping(parser: Any, places: dict[Loc, Place] | None) -> dict[str, Any]:  # noqa: PLR0912 - the hot loop
    """Read events up to the end of the mapping that is next. One loop, no recursion: depth costs no stack."""
    get, mapping_end, scalar_event = parser.get_event, yaml.MappingEndEvent, yaml.ScalarEvent
    root: dict[str, Any] = {}
    _plain(get())
    stack: list[tuple[Any, str | int | None]] = []  # the containers around, each with the key it is filling
    here: Any = root
    key: str | int | None = None  # a mapping's pending key
    while True:
        event = get()
        kind = type(event)
        if kind is scalar_event:
            value = event.value
            if event.anchor is not None or event.tag is not None:
                _plain(event)
            if event.implicit[0] and not event.style:
                value = _scalar(event, value)
            elif event.style == '"' and (hidden := re.search(HIDDEN, value)):
                what = f"an escape here stands for U+{ord(hidden[0]):04X}, a control character or invisible"
                raise _fault(event, "control-character", what, "remove it")
        elif kind is mapping_end or kind is yaml.SequenceEndEvent:
            if not stack:
                return root
            value = here if kind is mapping_end else tuple(here)
            here, key = stack.pop()
            if type(here) is dict:
                here[key] = value
                key = None
            else:
                here.append(value)
            continue
        else:
            _plain(event)
            value = {} if kind is yaml.MappingStartEvent else []
        if type(here) is dict and key is None:
            key = _key(event, value, here, places, stack)
            continue
        if places is not None:
            _note(places, _loc(stack, here, key), event)
        if kind is not scalar_event:
            if len(stack) >= MAX_DEPTH - 1:
                raise _fault(event, "too-deep", f"nested deeper than {MAX_DEPTH} levels", "flatten the record")
            stack.append((here, key))
            here, key = value, None
        elif type(here) is dict:
            here[key] = value
            key = None
        else:
            here.append(value)


def _key(event: Any, key: Any, here: dict[str, Any], places: dict[Loc, Place] | None, stack: Any) -> str:
    if type(key) is not str:
        shown = repr(event.value) if isinstance(event, yaml.ScalarEvent) else "a mapping or a list"
        raise _fault(event, "key-not-text", f"{shown} is a key, but not text", "use a word, or quote it")
    if key in here:
        raise _fault(event, "duplicate-key", f"the key {key!r} stands twice here", "keep one of the two")
    here[key] = None
    if places is not None:
        at = (event.start_mark.line + 1, event.start_mark.column + 1)
        places[_loc(stack, here, key)] = Place(at, at, None)
    return key


def _scalar(event: Any, text: str) -> Any:
    """Value of an unquoted scalar: text unless YAML 1.2 reads it as null, a truth value or a number."""
    if text in _WORDS:
        return _WORDS[text]
    match = _GUESS.fullmatch(text)
    if match is None:
        return text
    kind = match.lastgroup or ""
    if kind in _PROBLEMS:
        rule, message, repair = _PROBLEMS[kind]
        raise _fault(event, rule, message.format(text), repair.format(text))
    if kind == "int" and len(text) <= _MAX_DIGITS:
        return int(text)
    number = float(text) if kind == "float" else float("inf")
    if number in (float("inf"), float("-inf")):
        shown = text if len(text) < 40 else f"{text[:40]}…"
        raise _fault(event, "ambiguous-value", f"{shown} is too large a number", "give fewer digits, or quote it")
    return number


def _plain(event: Any) -> None:
    """Refuse what lets a small file expand, or choose its own types."""
    if isinstance(event, yaml.AliasEvent):
        raise _fault(event, "yaml-feature", f"*{event.anchor} is an alias", "write the value out")
    if event.anchor is not None:
        raise _fault(event, "yaml-feature", f"&{event.anchor} is an anchor", "remove it and write values out")
    if event.tag is not None:
        raise _fault(event, "yaml-feature", f"{event.tag!r} is a tag", "remove it; the schema knows the types")


def _loc(stack: list[tuple[Any, str | int | None]], here: Any, key: str | int | None) -> Loc:
    steps = [*stack, (here, key)]
    return tuple(len(box) if step is None else step for box, step in steps)


def _note(places: dict[Loc, Place], loc: Loc, event: Any) -> None:
    at = (event.start_mark.line + 1, event.start_mark.column + 1)
    key = places[loc].key if loc in places else at
    raw = event.value if isinstance(event, yaml.ScalarEvent) else None
    places[loc] = Place(key, at if raw else key, raw)


def _fault(event: Any, rule: str, message: str, repair: str) -> YamlFault:
    mark = event.start_mark
    return YamlFault(mark.line + 1, mark.column + 1, rule, message, repair)
