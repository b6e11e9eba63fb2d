"""Edits of one line of a file, and those that repair a fault for certain."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lvlm_atlas.atlas.yaml_subset import Place


@dataclass(frozen=True)
class Edit:
    """So many characters of a line, from a column, become a text. Lines and columns count from 1."""

    line: int
    column: int
    length: int
    text: str


Fix = Callable[[Mapping[str, object], Place, str], Edit | None]
"""From the words of a finding, its place and the line there to the edit; None: it is not certain here."""


def present_id(words: Mapping[str, object], place: Place, line: str) -> Edit | None:
    """The new id (`new`) in the place of a former one (`id`)."""
    raw = place.raw
    if raw is None or line[place.value[1] - 1 :][: len(raw)] != raw:
        return None
    return Edit(*place.value, len(raw), raw.replace(str(words["id"]), str(words["new"])))


def no_second_item(_: Mapping[str, object], place: Place, line: str) -> Edit | None:
    """A list without an item that stands before it already."""
    raw, (number, column) = place.raw, place.value
    if raw is None:
        return None
    if line.strip() == f"- {raw}":
        return Edit(number, 1, len(line) + 1, "")
    if comma := re.search(r",\s*$", line[: column - 1]):
        return Edit(number, comma.start() + 1, column - 1 + len(raw) - comma.start(), "")
    return None
