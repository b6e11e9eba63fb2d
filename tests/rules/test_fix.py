"""Repairs that are certain: what a rule's own example breaks is sound again, and nothing else has changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lvlm_atlas.rules.check import all_rules, check
from lvlm_atlas.rules.edit import Edit
from lvlm_atlas.rules.fix import edited, repairs, write
from lvlm_atlas.rules.rule import Rule
from lvlm_atlas.rules.sample import sound
from lvlm_atlas.rules.sample import write as write_files

FIXED = [rule for rule in all_rules() if rule.fix]


@pytest.mark.parametrize("rule", FIXED, ids=lambda rule: rule.id)
def test_a_repair_mends_the_example_and_leaves_the_rest(rule: Rule, tmp_path: Path) -> None:
    files = sound()
    rule.example(files)
    write_files(files, tmp_path)
    assert {fault.rule for fault in check(tmp_path)} == {rule.id}
    (repair,) = repairs(tmp_path)
    before, after = (Counter(text.splitlines()) for text in (repair.before, repair.after))
    assert 1 <= sum(((before - after) + (after - before)).values()) <= 2
    assert (tmp_path / repair.path).read_text("utf-8") == repair.before  # nothing is written yet
    write(tmp_path, repair)
    assert check(tmp_path) == ()
    assert repairs(tmp_path) == []
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("tmp")]


def test_lists_in_one_line_and_in_several_lose_their_second_item(tmp_path: Path) -> None:
    files = sound()
    path = next(name for name, data in files.items() if isinstance(data, dict) and "mechanism" in data)
    files[path]["mechanism"] *= 3
    write_files(files, tmp_path)
    file = tmp_path / path
    one = files[path]["mechanism"][0]
    for written in (
        f"mechanism: [{one}, {one} ,  {one}]  # as stated\n",
        f"mechanism:\n  - {one}\n  - {one}\n  - {one}\n",
    ):
        lines = file.read_text("utf-8").splitlines(keepends=True)
        start = next(at for at, line in enumerate(lines) if line.startswith("mechanism:"))
        end = next(at for at, line in enumerate(lines[start + 1 :], start + 1) if line[0] not in " -")
        file.write_text("".join([*lines[:start], written, *lines[end:]]), "utf-8")
        (repair,) = repairs(tmp_path)
        write(tmp_path, repair)
        assert check(tmp_path) == ()
        assert ("# as stated" in repair.after) == ("#" in written)


def test_edits_are_made_from_the_end_and_do_not_overlap() -> None:
    text = "a: [x, y]\nb: z\n"
    assert edited(text, [Edit(1, 5, 1, "long"), Edit(1, 8, 1, "w"), Edit(2, 1, 5, "")]) == "a: [long, w]\n"
    assert edited(text, [Edit(1, 4, 6, "[]"), Edit(1, 8, 1, "w")]) == "a: [x, w]\nb: z\n"


def test_only_the_files_that_were_named_are_repaired(tmp_path: Path) -> None:
    files = sound()
    FIXED[0].example(files)
    write_files(files, tmp_path)
    assert repairs(tmp_path, [tmp_path / "taxonomy" / "signal.yaml"]) == []
    assert repairs(tmp_path, [tmp_path / "catalog"])
