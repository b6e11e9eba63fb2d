"""The base of every record, and the small types that records share."""

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_set = object.__setattr__
_NONE_GIVEN: set[str] = set()
_COPIED = ("model_copy", "model_dump", "model_dump_json")


class Record(BaseModel):
    """Base of all records: unknown keys are faults, values are not coerced, records never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    def __dir__(self) -> list[str]:
        """What a notebook offers at Tab: fields, and how to copy and print them, of all that pydantic has."""
        own = (name for kind in type(self).__mro__ if issubclass(kind, Record) for name in vars(kind))
        fields = type(self).model_fields
        return sorted({*fields, *(name for name in own if not name.startswith(("_", "model_"))), *_COPIED})

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a snapshot of thousands of records is read in half the time that pydantic's state takes."""
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fields as they were; which of them had been given is not kept."""
        _set(self, "__dict__", state)
        _set(self, "__pydantic_fields_set__", _NONE_GIVEN)
        _set(self, "__pydantic_extra__", None)
        _set(self, "__pydantic_private__", None)


@dataclass(frozen=True)
class Ref:
    """Marks a string as the id of something defined elsewhere; the rules resolve it.

    `to` is a vocabulary (`stage`, `bound`, …), or `technique` or `paper`.
    """

    to: str

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """Carry the mark into the JSON Schema, where `schema.export` puts the known ids in its place."""
        return {**handler(core), "x-ref": self.to}


ID_PATTERN = r"^[a-z0-9]+(?:[-.][a-z0-9]+)*$"
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN, max_length=64)]
"""Lower-case words joined by `-` (quantities also by `.`). An id means one thing for ever."""

PaperKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:_-]+$", max_length=64), Ref("paper")]
"""A key of `papers.bib`."""


def _one_line(text: str) -> str:
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
        raise ValueError("holds a control character")
    if re.search(r"<\s*/?\s*[A-Za-z!]", text):
        raise ValueError("holds HTML; write plain text, `code` marks and *emphasis* only")
    if not text.strip():
        raise ValueError("is empty")
    return " ".join(text.split())


Text = Annotated[str, AfterValidator(_one_line)]
"""Plain text of one paragraph; white space is folded, HTML is refused."""


Setting = bool | int | float | str | tuple[int | float, ...]
"""A value of a parameter."""


def within(limits: tuple[float, float]) -> Any:
    """The least and the most that a number may be."""
    return Field(ge=limits[0], le=limits[1])


def _is_day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError("is no day of the calendar") from None
    return text


Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_is_day)]
"""A day, as YEAR-MONTH-DAY."""


class Source(Record):
    """Where a statement or a number can be looked up."""

    paper: PaperKey
    """Key of the work in papers.bib."""
    place: Text
    """Where in it: a section, table, figure or equation, or `official repository, README`."""


def refs_in(record: BaseModel) -> list[tuple[tuple[str | int, ...], str, str]]:
    """Every reference a record makes: its location (keys and indices), what it refers to, and the id."""
    refs: list[tuple[tuple[str | int, ...], str, str]] = []
    for name, key, marks in _marked_fields(type(record)):
        _collect(getattr(record, name), (key,), marks, refs)
    return refs


def _collect(
    value: Any,
    loc: tuple[str | int, ...],
    marks: tuple[str, ...],
    refs: list[tuple[tuple[str | int, ...], str, str]],
) -> None:
    """Walk a field's value and note each string, if the field is marked, and each record inside it."""
    if isinstance(value, BaseModel):
        refs.extend((loc + inner, to, id_) for inner, to, id_ in refs_in(value))
    elif isinstance(value, str):
        refs.extend((loc, to, value) for to in marks)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _collect(item, (*loc, index), marks, refs)
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(item, (*loc, key), marks, refs)


@lru_cache(maxsize=128)
def _marked_fields(model: type[BaseModel]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Each field's name, its key in the text, and what its strings refer to."""
    marked = []
    for name, field in model.model_fields.items():
        own = [mark.to for mark in field.metadata if isinstance(mark, Ref)]
        marked.append((name, field.alias or name, tuple(own or _marks(field.annotation))))
    return tuple(marked)


def _marks(annotation: Any) -> list[str]:
    """The `Ref` marks anywhere inside an annotation such as `tuple[Annotated[str, Ref("x")], ...]`."""
    own = [mark.to for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Ref)]
    return own or [to for part in getattr(annotation, "__args__", ()) for to in _marks(part)]


NonEmpty = Field(min_length=1)
