"""Holds a document's data against a model of the schema, and says in plain words what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from lvlm_atlas.atlas.document import Document, place_of, places
from lvlm_atlas.atlas.placeholders import MESSAGE, REPAIR, placeholders
from lvlm_atlas.atlas.placeholders import RULE as PLACEHOLDER_RULE
from lvlm_atlas.atlas.yaml_subset import Loc, Place
from lvlm_atlas.fault import Fault, suggestion
from lvlm_atlas.schema.field_docs import field_docs
from lvlm_atlas.schema.record import ID_PATTERN

MAX_FAULT = 200
"""Faults of one file that are told; a file with more is broken in one way many times over."""

_KINDS = {
    "string_type": "text", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "bool_type": "true or false", "tuple_type": "a list", "list_type": "a list",
    "dict_type": "a mapping", "model_type": "a mapping", "model_attributes_type": "a mapping",
}  # fmt: skip
_PATTERN_WORDS = {
    ID_PATTERN: "use lower-case words and digits joined by `-` or `.`",
    r"^[a-z][a-z0-9_]*$": "use lower-case letters, digits and `_`, a letter first",
}


@dataclass(frozen=True)
class _Misfit:
    """One thing that does not fit, before its place in the text is known."""

    loc: Loc
    rule: str
    message: str
    repair: str
    at_key: bool = False


def validate(adapter: TypeAdapter[Any], document: Document, root: Path) -> tuple[Any | None, list[Fault]]:
    """The record that a document holds, or None and every fault of it."""
    try:
        return adapter.validate_python(document.data), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    inside = {e["loc"][:end] for e in errors for end in range(len(e["loc"]))}
    # A list whose only item is wrong counts as empty too; the item's own fault says it better.
    errors = [e for e in errors if e["type"] != "too_short" or e["loc"] not in inside]
    beyond = len(errors) - MAX_FAULT
    places_ = places(root, document.path)
    misfits = {(m.loc, m.rule): m for m in islice(_left_open(document.data), MAX_FAULT)}
    open_places = {loc for loc, _ in misfits}  # what type their values should have had says nothing new
    others = (m for m in _misfits(errors[:MAX_FAULT], adapter._type, places_) if m.loc not in open_places)
    misfits |= {(m.loc, m.rule): m for m in others}
    faults = []
    for misfit in misfits.values():
        line, column = place_of(places_, misfit.loc, misfit.at_key)
        faults.append(
            Fault(
                path=document.path, line=line, column=column, rule=misfit.rule,
                message=misfit.message, repair=misfit.repair,
            )
        )  # fmt: skip
    if beyond > 0:
        message, repair = f"{beyond} more faults are not listed", "correct those above first"
        faults.append(Fault(path=document.path, rule="too-many-faults", message=message, repair=repair))
    return None, faults


def _left_open(data: object) -> Iterator[_Misfit]:
    """The places that a draft left for its author, in a record that cannot be read because of them or of others."""
    for loc, text in placeholders(data):
        yield _Misfit(loc, PLACEHOLDER_RULE, MESSAGE.format(text=text), REPAIR)


def shown(loc: Loc) -> str:
    """A location as entries are talked about: `effects[0].scale`."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc]
    text = "".join(parts).removeprefix(".")
    text = text if len(text) <= 120 else f"{text[:117]}…"
    return f"`{text}`" if text.isprintable() else repr(text)


def value_shown(value: Any) -> str:
    """A value in a message: short, on one line, with its kind where text would not tell."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "…")
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else f"the number {value}"


def _misfits(errors: list[Any], root_type: Any, places_: dict[Loc, Place]) -> Iterator[_Misfit]:
    scalar_unions: dict[Loc, list[Any]] = {}
    for error in errors:
        walked = _walk(root_type, error["loc"])
        if walked.branch:
            scalar_unions.setdefault(walked.loc, []).append(error)
        else:
            yield _misfit(error, walked, places_)
    for loc, branches in scalar_unions.items():
        got = value_shown(branches[0]["input"])
        yield _Misfit(loc, "wrong-type", f"{shown(loc)} is {got}", "give a number, a word, true or false")


def _misfit(error: Any, walked: _Walk, places_: dict[Loc, Place]) -> _Misfit:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    loc, name, got = walked.loc, shown(walked.loc), value_shown(error["input"])
    doc = f": {walked.doc}" if walked.doc else ""
    if kind == "missing":
        return _Misfit(loc, "missing-key", f"the key {name} is missing", f"add it{doc}")
    if kind == "extra_forbidden":
        word = str(loc[-1])[:80]
        return _Misfit(loc, "unknown-key", f"the key {name} is unknown", suggestion(word, walked.keys), at_key=True)
    if kind == "union_tag_not_found":
        tag = (*loc, context["discriminator"].strip("'"))
        return _Misfit(tag, "missing-key", f"the key {shown(tag)} is missing", "add it; it tells which kind this is")
    if kind == "union_tag_invalid":
        tag = (*loc, context["discriminator"].strip("'"))
        words = re.findall(r"'([^']*)'", context["expected_tags"])
        message = f"{shown(tag)} is {value_shown(context['tag'])}"
        return _Misfit(tag, "bad-value", message, suggestion(str(context["tag"]), words))
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        return _Misfit(loc, "bad-value", f"{name} is {got}", suggestion(str(value)[:80], words))
    if kind in _KINDS:
        raw = places_[loc].raw if loc in places_ else None
        return _Misfit(loc, "wrong-type", f"{name} is {got}", _retype(kind, value, raw, doc))
    if kind == "value_error":
        return _own(loc, str(context["error"]))
    return _Misfit(loc, "bad-value", *_limit(error, name, doc), at_key=walked.at_key)


def _retype(kind: str, value: Any, raw: str | None, doc: str) -> str:
    wanted = _KINDS[kind]
    if value is None:
        return f"give {wanted}, or leave the key out{doc}"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"quote it: '{raw if raw and len(raw) < 60 else value}'"
    if wanted == "a list":
        short = isinstance(value, str) and value.isprintable() and len(value) < 40
        return f"write a list: [{value}]" if short else "write a list"
    return f"give {wanted}{doc}"


def _own(loc: Loc, text: str) -> _Misfit:
    """A fault that a validator of ours worded: what, and after a semicolon the repair."""
    what, _, repair = text.partition("; ")
    rule = "html-in-text" if "holds HTML" in what else "bad-value"
    where = shown(loc) if loc else "the record"
    return _Misfit(loc, rule, " ".join(f"{where} {what}".split()), repair or "correct it")


def _limit(error: Any, name: str, doc: str) -> tuple[str, str]:
    """What is wrong with a value of the right kind, and the repair."""
    kind, value, context, got = error["type"], error["input"], error.get("ctx", {}), value_shown(error["input"])
    if kind == "string_pattern_mismatch":
        return f"{name} is {got}", _PATTERN_WORDS.get(context["pattern"], f"write it as its field asks{doc}")
    if kind == "string_too_long":
        limit = context["max_length"]
        return f"{name} has {len(value)} characters, more than {limit}", f"shorten it to {limit}"
    if kind == "too_short":
        least = context["min_length"]
        return f"{name} has {context['actual_length']} items", f"give at least {least}{doc}"
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    if kind in bounds:
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
        return f"{name} is {got}", f"give {words[bounds[kind]]} {context[bounds[kind]]}"
    return f"{name} is {got}", f"give a value that fits{doc}"


@dataclass(frozen=True)
class _Walk:
    """Where an error of pydantic lies, in the terms of the text."""

    loc: Loc
    keys: tuple[str, ...] = ()
    """Keys that may stand beside the last one."""
    doc: str = ""
    """What the field is for."""
    branch: bool = False
    """Whether the error is one branch of a union of plain values."""
    at_key: bool = False
    """Whether it is the key that is wrong, not its value."""


def _walk(kind: Any, loc: Loc) -> _Walk:
    """Follow pydantic's location through the types; the tags it puts in appear in no YAML."""
    walk = _Walk(())
    for step in loc:
        kind, discriminator = _unwrapped(kind)
        if step == "[key]":
            return replace(walk, at_key=True)
        if discriminator:  # this step is the tag: no key of the text, but the member of the union
            kind = next(m for m in get_args(kind) if step in get_args(m.model_fields[discriminator].annotation))
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = _fields(kind)
            field = fields.get(str(step))
            walk = _Walk((*walk.loc, step), tuple(fields), _doc(kind, str(step)))
            kind = _typed(field) if field else None
        elif get_origin(kind) in (tuple, dict) and not (isinstance(step, str) and get_origin(kind) is tuple):
            walk = _Walk((*walk.loc, step), doc=walk.doc)
            kind = get_args(kind)[0 if get_origin(kind) is tuple else 1]
        else:
            return replace(walk, branch=True)
    return walk


def _unwrapped(kind: Any) -> tuple[Any, str | None]:
    """A type without `Annotated` and `| None`; of a tagged union, also the key that holds the tag."""
    discriminator: str | None = None
    while True:
        if get_origin(kind) is Annotated:
            kind, *marks = get_args(kind)
            discriminators = (mark.discriminator for mark in marks if isinstance(mark, FieldInfo))
            discriminator = next((key for key in discriminators if isinstance(key, str)), discriminator)
            continue
        rest = [part for part in get_args(kind) if part is not NoneType]
        if len(rest) == 1 and len(get_args(kind)) == 2 and get_origin(kind) is not tuple:
            kind = rest[0]
            continue
        return kind, discriminator


@lru_cache(maxsize=256)
def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by the key that the text uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _doc(model: type[BaseModel], key: str) -> str:
    """What the field under a key of the text is for."""
    names = {field.alias or name: name for name, field in model.model_fields.items()}
    return field_docs(model).get(names.get(key, ""), "")


def _typed(field: FieldInfo) -> Any:
    return Annotated[field.annotation, field] if field.discriminator else field.annotation
