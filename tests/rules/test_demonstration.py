"""A demonstration shows the change that breaks a rule, and the fault where that change is."""

from __future__ import annotations

import re

import pytest

from lvlm_atlas.rules.check import all_rules
from lvlm_atlas.rules.demonstration import demonstration
from lvlm_atlas.rules.rule import Rule


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_every_fault_of_an_example_lies_in_a_file_of_the_catalog_and_a_change_is_shown(rule: Rule) -> None:
    shown = demonstration(rule)
    assert re.search("^[+-](?![+-]{2})", shown.change, re.MULTILINE)
    assert {fault.rule for fault in shown.faults} == {rule.id}
    assert not any(fault.path.is_absolute() for fault in shown.faults)


def test_a_change_shows_no_more_than_what_is_around_it() -> None:
    (rule,) = (rule for rule in all_rules() if rule.id == "self-interaction")
    added = [line for line in demonstration(rule).change.splitlines() if line.startswith("+") and "+++" not in line]
    assert any("with: alpha" in line for line in added)
    assert len(demonstration(rule).change.splitlines()) < 20
