"""Repairs that are certain: edits of a file's text that leave everything else in it as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lvlm_atlas.atlas.document import places
from lvlm_atlas.atlas.loader import inspect
from lvlm_atlas.atlas.yaml_subset import Loc, Place
from lvlm_atlas.files import replace_file
from lvlm_atlas.rules.check import all_rules, chosen
from lvlm_atlas.rules.edit import Edit


@dataclass(frozen=True)
class Repair:
    """What a file says and what it is to say."""

    path: Path
    """Relative to the root."""
    before: str
    after: str


def repairs(root: Path, paths: Collection[Path] | None = None) -> list[Repair]:
    """The repairs of all faults whose repair is certain, a file each; nothing is written.

    Args:
        root: folder of the atlas.
        paths: only of these files and folders.
    """
    root = root.resolve()
    inspection = inspect(root)
    edits: dict[Path, set[Edit]] = defaultdict(set)
    written: dict[Path, dict[Loc, Place]] = {}
    for rule in all_rules():
        if rule.fix is None:
            continue
        for finding in rule.find(inspection):
            if not chosen(root, finding.path, paths):
                continue
            if finding.path not in written:
                written[finding.path] = places(root, finding.path)
            place = written[finding.path].get(finding.loc)
            if place and (edit := rule.fix(finding.words, place, _line(root / finding.path, place.value[0]))):
                edits[finding.path].add(edit)
    found = []
    for path, wanted in sorted(edits.items()):
        before = (root / path).read_text("utf-8")
        found.append(Repair(path, before, edited(before, wanted)))
    return found


def _line(path: Path, number: int) -> str:
    return path.read_text("utf-8").splitlines()[number - 1]


def edited(text: str, edits: Collection[Edit]) -> str:
    """A text with edits made, the last place first; of two that overlap the later place counts."""
    lines = text.splitlines(keepends=True)
    last = (len(lines) + 1, 0)
    for edit in sorted(edits, key=lambda each: (each.line, each.column), reverse=True):
        if (edit.line, edit.column + edit.length) > last:
            continue
        line, start = lines[edit.line - 1], edit.column - 1
        lines[edit.line - 1] = line[:start] + edit.text + line[start + edit.length :]
        last = (edit.line, edit.column)
    return "".join(lines)


def write(root: Path, repair: Repair) -> None:
    """Write a repaired file, whole or not at all."""
    replace_file(root / repair.path, repair.after)
