"""Applies every rule to a root, and gives each finding its line."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from lvlm_atlas import rules
from lvlm_atlas.atlas.document import place_of, places
from lvlm_atlas.atlas.loader import Inspection, inspect
from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.atlas.yaml_subset import Loc, Place
from lvlm_atlas.fault import Fault
from lvlm_atlas.rules.rule import Finding, Rule


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule that a module of this package defines, by id. No list of them is kept."""
    modules = [importlib.import_module(f"{rules.__name__}.{m.name}") for m in pkgutil.iter_modules(rules.__path__)]
    rules_by_id = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Rule)}
    return tuple(sorted(rules_by_id.values(), key=lambda rule: rule.id))


def check(root: Path | None = None, paths: Collection[Path] | None = None) -> tuple[Fault, ...]:
    """Every fault and warning under `root`, in the order of files and lines.

    Args:
        root: Folder of the atlas; by default the one that comes with the package.
        paths: Report only these files and folders. All files are read in any case, since records refer to
            each other.
    """
    root = (root or data_root()).resolve()
    faults = tuple(sorted(_faults(inspect(root))))
    return tuple(fault for fault in faults if chosen(root, fault.path, paths))


def chosen(root: Path, path: Path, paths: Collection[Path] | None) -> bool:
    """Whether a file of the root is one of these files, or lies in one of these folders; None: all are."""
    return paths is None or any(path.is_relative_to(_under(root, each)) for each in paths)


def _under(root: Path, path: Path) -> Path:
    """`path` relative to the root; a path that is already relative may start at the root or where we stand."""
    full = path if path.is_absolute() or path.exists() else root / path
    full = full.parent.resolve() / full.name if full.name else full.resolve()
    return full.relative_to(root) if full.is_relative_to(root) else full


def _faults(inspection: Inspection) -> Iterable[Fault]:
    yield from inspection.faults
    written: dict[Path, dict[Loc, Place]] = {}
    for rule in all_rules():
        for finding in rule.find(inspection):
            yield _fault(rule, finding, inspection.atlas.root, written)


def _fault(rule: Rule, finding: Finding, root: Path, written: dict[Path, dict[Loc, Place]]) -> Fault:
    line, column = finding.line or 1, 1
    if finding.loc:
        if finding.path not in written:
            written[finding.path] = places(root, finding.path) if (root / finding.path).is_file() else {}
        line, column = place_of(written[finding.path], finding.loc)
    return Fault(
        path=finding.path, line=line, column=column, rule=rule.id, level=rule.level,
        message=rule.message.format_map(finding.words), repair=rule.repair.format_map(finding.words),
    )  # fmt: skip
