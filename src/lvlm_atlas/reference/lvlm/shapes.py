"""Types of the numbers of a configuration, and the base that holds every field to its own."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from lvlm_atlas.limits import MOST_LAYER, MOST_PIXEL, MOST_WIDTH

Width = Annotated[int, 1, MOST_WIDTH]
"""A number of channels, heads or words, within these limits."""
Depth = Annotated[int, 0, MOST_LAYER]
Side = Annotated[int, 1, MOST_PIXEL]
Index = Annotated[int, 0, MOST_WIDTH]
Positive = Annotated[float, 1e-30, 1e30]


class Shapes:
    """Base of configurations: every field is of its type and within its limits.

    Raises:
        ValueError: one is not; all of them are named.
    """

    def __post_init__(self) -> None:
        class_: Any = type(self)
        faults = [f for name, hint in _hints(class_).items() if (f := _fault(name, getattr(self, name), hint))]
        if faults:
            raise ValueError("; ".join(faults))


@cache
def _hints(class_: Any) -> dict[str, Any]:
    hints = get_type_hints(class_, include_extras=True)
    return {field.name: hints[field.name] for field in fields(class_)}


def _fault(name: str, value: object, hint: Any) -> str | None:
    """What is wrong with the value of a field, if anything is."""
    if get_origin(hint) is Annotated:
        type_, least, most = get_args(hint)
        right = isinstance(value, (int, float) if type_ is float else int) and not isinstance(value, bool)
        if right and least <= value <= most:
            return None
        kind = "a number" if type_ is float else "a whole number"
        return f"{name} is {_shown(value)}, not {kind} from {least:g} to {most:g}"
    if get_origin(hint) is tuple:
        part = get_args(hint)[0]
        if not isinstance(value, tuple):
            return f"{name} is {_shown(value)}, not a list"
        return next((fault for each in value if (fault := _fault(f"one of {name}", each, part))), None)
    if value is None and type(None) in get_args(hint):
        return None
    types = [each for each in get_args(hint) or (hint,) if each is not type(None)]
    if get_origin(types[0]) is Annotated:
        return _fault(name, value, types[0])
    wanted = types[0]
    return None if isinstance(value, wanted) else f"{name} is {_shown(value)}, not of the type {wanted.__name__}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}…"
