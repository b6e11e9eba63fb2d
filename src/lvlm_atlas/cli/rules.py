"""The rules of the catalog for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lvlm_atlas.cli.terminal import Block, Indented, Text, show
from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.rules.check import all_rules
from lvlm_atlas.rules.demonstration import demonstration


def rule_rows() -> Iterator[dict[str, Any]]:
    """Every rule as a row."""
    for rule in all_rules():
        yield {"id": rule.id, "level": rule.level, "why": rule.why, "message": rule.message, "repair": rule.repair}


def print_rule(id_: str) -> None:
    """Print what a rule asks and why, the change of its example, and what `check` then says.

    Raises:
        AtlasError: there is no such rule.
    """
    rules = {rule.id: rule for rule in all_rules()}
    if id_ not in rules:
        hint = "a fault of a single file, such as `yaml-syntax`, says its repair itself"
        raise AtlasError(f"no rule {id_!r}; {suggestion(id_, rules)}; {hint}")
    rule = rules[id_]
    example = demonstration(rule)
    parts: list[Block] = [
        Text.assemble((rule.id, "bold"), f"  ({rule.level})"), Text(" ".join((rule.find.__doc__ or "").split())),
        Text(""), Text("Why", style="bold"), Indented(Text(rule.why)),
        Text(""), Text("A change that breaks it", style="bold"), Indented(Text(example.change)),
        Text(""), Text("What check then says", style="bold"),
        *(Indented(Text(str(fault))) for fault in example.faults),
    ]  # fmt: skip
    show(*parts)
