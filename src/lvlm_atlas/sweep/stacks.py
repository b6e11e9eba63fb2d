"""Grids of stacks as people write them: `fastv:keep_ratio=0.25|0.5+kivi:bits=2`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import product

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.specs.stack import split
from lvlm_atlas.sweep.names import chosen

Stack = tuple[str, ...]
"""Techniques with their settings, each as `planner.stack.parse` reads it; the empty one is no stack."""


def expand(text: str, techniques: Collection[str], id_of: Callable[[str], str]) -> tuple[Stack, ...]:
    """The stacks that a text stands for, in the order of its alternatives.

    `+` joins techniques, `|` separates the values of a parameter, `*` in an id stands for all ids that match, and
    `none` is no stack.

    Args:
        text: such as `fastv:keep_ratio=0.25|0.5+kivi:bits=2`.
        techniques: ids that `*` may stand for.
        id_of: the id of a technique by one of its names; raises if there is none.

    Raises:
        AtlasError: a technique or a value is missing or unknown, or nothing matches.
    """
    if text.strip() == "none":
        return ((),)
    return tuple(product(*(_settings(text, part, techniques, id_of) for part in split(text))))


def label(stack: Stack) -> str:
    """A stack as `expand` reads it."""
    return "+".join(stack) or "none"


def _settings(text: str, part: str, techniques: Collection[str], id_of: Callable[[str], str]) -> Sequence[str]:
    """One technique, or all that match, at each of its settings."""
    word, colon, rest = part.partition(":")
    ids = chosen("technique", [word], techniques, id_of)
    axes = [_values(text, pair) for pair in rest.split(",")] if colon else []
    settings = [",".join(each) for each in product(*axes)]
    return [f"{each}:{setting}" if setting else each for each in ids for setting in settings]


def _values(text: str, pair: str) -> list[str]:
    name, equals, values = (part.strip() for part in pair.partition("="))
    alternatives = [value.strip() for value in values.split("|")]
    if not (name and equals and all(alternatives)):
        raise AtlasError(f"stack {text!r}: {pair!r} sets nothing; write name=value or name=value|value")
    return [f"{name}={value}" for value in alternatives]
