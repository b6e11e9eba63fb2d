"""A rule shown at work: how its example breaks a sound catalog, and what `check` then says."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from tempfile import TemporaryDirectory

from lvlm_atlas.fault import Fault
from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.rule import Files, Rule
from lvlm_atlas.rules.sample import as_yaml, sound, write


@dataclass(frozen=True)
class Demonstration:
    """What breaks a rule."""

    rule: Rule
    change: str
    """The change of a sound catalog that breaks it, as a unified diff."""
    faults: tuple[Fault, ...]
    """What `check` says of it."""


def demonstration(rule: Rule) -> Demonstration:
    """The rule's own example, checked in a folder that does not outlive the call."""
    broken = sound()
    rule.example(broken)
    with TemporaryDirectory() as folder:
        faults = check(write(broken, Path(folder)))
    return Demonstration(rule, "\n".join(_changed(sound(), broken)), faults)


def _changed(before: Files, after: Files) -> list[str]:
    lines: list[str] = []
    for path in (path for path in dict.fromkeys((*before, *after)) if before.get(path) != after.get(path)):
        one, two = (_lines(files.get(path)) for files in (before, after))
        lines += unified_diff(one, two, path, path, lineterm="", n=1)
    return lines


def _lines(content: object) -> list[str]:
    if content is None:
        return []
    return (content if isinstance(content, str) else as_yaml(content)).splitlines()  # type: ignore[arg-type]
