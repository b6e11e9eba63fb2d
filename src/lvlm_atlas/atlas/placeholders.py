"""What drafts leave for people to write: any value that holds `FILL IN`, whatever the type of its field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lvlm_atlas.atlas.yaml_subset import Loc

PLACEHOLDER = "FILL IN"
RULE = "placeholder"
MESSAGE = "this still says {text!r}"
REPAIR = "write what is asked for"


def placeholders(value: object, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """Every text with a placeholder in a document's data, with its location."""
    if isinstance(value, str):
        if PLACEHOLDER in value:
            yield loc, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from placeholders(item, (*loc, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from placeholders(item, (*loc, index))
