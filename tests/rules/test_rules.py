"""Each rule is broken by its example and by nothing else; a sound catalog breaks none."""

from pathlib import Path

import pytest

from lvlm_atlas.atlas.root import data_root
from lvlm_atlas.rules.check import all_rules, check
from lvlm_atlas.rules.rule import Rule
from lvlm_atlas.rules.sample import ALPHA, BETA, sound, write

RULES = [pytest.param(rule, id=rule.id) for rule in all_rules()]


def test_a_sound_catalog_has_no_faults(root: Path) -> None:
    assert check(root) == ()


def test_the_catalog_of_the_project_has_no_errors() -> None:
    assert [str(fault) for fault in check(data_root()) if fault.level == "error"] == []


@pytest.mark.parametrize("rule", RULES)
def test_the_example_of_a_rule_breaks_that_rule_alone(rule: Rule, tmp_path: Path) -> None:
    files = sound()
    rule.example(files)
    faults = check(write(files, tmp_path))
    assert {fault.rule for fault in faults} == {rule.id}, [str(fault) for fault in faults]
    assert {fault.level for fault in faults} == {rule.level}
    assert all((tmp_path / fault.path).exists() for fault in faults)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_says_why_it_is_there(rule: Rule) -> None:
    assert rule.why.endswith(".")
    assert rule.find.__doc__


def test_rule_ids_are_unique() -> None:
    ids = [rule.id for rule in all_rules()]
    assert len(ids) == len(set(ids)) >= 25


def test_only_the_asked_files_are_reported_but_all_are_read(tmp_path: Path) -> None:
    files = sound()
    files[ALPHA]["family"] = "no-such"
    files[BETA]["training"] = "no-such"
    root = write(files, tmp_path)
    assert [fault.path for fault in check(root, [root / BETA])] == [Path(BETA)]
    assert [fault.path for fault in check(root, [Path(ALPHA)])] == [Path(ALPHA)]
    assert len(check(root, [root / "catalog"])) == len(check(root, [root])) == 2
    assert check(root, [root / "taxonomy"]) == ()


def test_a_broken_entry_hides_no_faults_of_others_and_makes_none(tmp_path: Path) -> None:
    files = sound()
    files[BETA] = "id: [\n"  # alpha's edge to beta is right none the less
    files[ALPHA]["training"] = "no-such"
    faults = check(write(files, tmp_path))
    assert [(str(fault.path), fault.rule) for fault in faults] == [(BETA, "yaml-syntax"), (ALPHA, "unknown-term")]


def test_a_broken_vocabulary_does_not_make_its_terms_unknown(tmp_path: Path) -> None:
    files = sound()
    files["taxonomy/family.yaml"]["terms"][0]["id"] = "Not An Id"
    assert {fault.rule for fault in check(write(files, tmp_path))} == {"bad-value"}


def test_a_broken_bibliography_does_not_make_its_works_unknown(tmp_path: Path) -> None:
    files = sound()
    files["papers.bib"] = "@misc{doe2025alpha, title = {x"
    assert {fault.rule for fault in check(write(files, tmp_path))} == {"bibtex-syntax"}


def test_techniques_that_forward_in_a_circle_are_told_and_do_not_hang(tmp_path: Path) -> None:
    files = sound()
    for here, there in (("old", "older"), ("older", "old")):
        files[BETA.replace("beta", here)] = {"id": here, "moved": there}
    files[ALPHA]["interactions"][0]["with"] = "old"
    rules = [fault.rule for fault in check(write(files, tmp_path))]
    assert rules.count("forward-circle") == 2


def test_a_former_name_may_stay_an_alias(tmp_path: Path) -> None:
    files = sound()
    files[BETA.replace("beta", "old-beta")] = {"id": "old-beta", "moved": "beta"}
    files[BETA]["aliases"] = ["Old Beta"]
    assert check(write(files, tmp_path)) == ()
