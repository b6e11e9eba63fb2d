"""What a rule of the catalog is: one check across records, with its reason, its repair and an example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lvlm_atlas.atlas.loader import Inspection
from lvlm_atlas.atlas.yaml_subset import Loc
from lvlm_atlas.rules.edit import Fix

Files = dict[str, Any]
"""A small catalog by path: data of YAML files, text of papers.bib."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A place that breaks a rule, and the words its message and repair leave open."""

    path: Path
    """File, relative to the root."""
    loc: Loc = ()
    """Keys and indices in the file; empty means the record as a whole."""
    line: int | None = None
    """Line from 1, where it is known already; else `loc` tells."""
    words: Mapping[str, object] = field(default_factory=dict)
    """Values of the names in the rule's message and repair."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One check of the catalog, beyond what the schema can say of a single record."""

    id: str
    """Permanent name, printed with each fault."""
    level: Literal["error", "warning"] = "error"
    """Whether a catalog that breaks it is unsound."""
    message: str
    """What is wrong, one line; `{names}` are filled by the finding."""
    repair: str
    """What to do about it, one line."""
    why: str
    """What would go wrong without the rule, in a sentence."""
    example: Callable[[Files], object]
    """Changes the sound files of `sample.sound` so that they break this rule and no other."""
    find: Callable[[Inspection], Iterator[Finding]]
    """Every place that breaks it."""
    fix: Fix | None = None
    """The repair, where it is certain."""


def rule(
    *,
    id: str,  # noqa: A002 - what a rule's name is called everywhere
    level: Literal["error", "warning"] = "error",
    message: str,
    repair: str,
    why: str,
    example: Callable[[Files], object],
    fix: Fix | None = None,
) -> Callable[[Callable[[Inspection], Iterator[Finding]]], Rule]:
    """Make a rule of the function that finds what breaks it."""

    def decorated(find: Callable[[Inspection], Iterator[Finding]]) -> Rule:
        return Rule(id=id, level=level, message=message, repair=repair, why=why, example=example, find=find, fix=fix)

    return decorated
