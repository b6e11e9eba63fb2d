"""Each fault injected into a sound atlas gives one line, at the right place, with the repair."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lvlm_atlas.rules.check import check
from lvlm_atlas.rules.sample import ALPHA

Edit = Callable[[str], str]


def _replace(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return edit


CASES: dict[str, tuple[Edit, str, str, str]] = {
    # what is broken: (edit, the line that is to be named, rule, part of message or repair)
    "wrong stage": (
        _replace("stage: prefilling", "stage: prefiling"), "stage: prefiling", "unknown-term", "prefilling",
    ),
    "missing key": (_replace("verified: code\n", ""), "id: alpha", "missing-key", "`verified`"),
    "missing nested key": (_replace("- does:", "- dooes:"), "- dooes:", "unknown-key", "'does'"),
    "unknown key": (_replace("summary:", "sumary:"), "sumary:", "unknown-key", "did you mean 'summary'?"),
    "duplicate key": (_replace("paper: doe", "name: Beta\npaper: doe"), "name: Beta", "duplicate-key", "'name'"),
    "unknown technique": (_replace("with: beta", "with: betta"), "with: betta", "unknown-technique", "'beta'"),
    "bad bib key": (
        _replace("paper: doe2025alpha", "paper: doe2026"), "paper: doe2026", "unknown-paper", "doe2025alpha",
    ),
    "default out of range": (
        _replace("default: 0.5", "default: 1.5"), "keep_ratio:", "bad-value", "outside (0, 1]",
    ),
    "trial out of range": (
        _replace("- keep_ratio: 0.25", "- keep_ratio: 0"), "- keep_ratio: 0", "illegal-setting", "(0, 1]",
    ),
    "expression naming nothing": (
        _replace("scale: keep_ratio", "scale: keep_rate"),
        "scale: keep_rate",
        "unknown-name-in-expression",
        "keep_ratio",
    ),
    "expression that calls": (
        _replace("scale: keep_ratio", "scale: open('x')"), "scale: open", "bad-value", "may",
    ),
    "html": (_replace("Drops the", "Drops <b>the</b>"), "summary: Drops", "html-in-text", "plain text"),
    "number for text": (_replace("name: Alpha", "name: 2403.06760"), "name: 2403", "wrong-type", "'2403.06760'"),
    "text for a list": (
        _replace("mechanism:\n- pruning", "mechanism: pruning"), "mechanism:", "wrong-type", "[pruning]",
    ),
    "text for a truth value": (
        _replace("query_aware: true", "query_aware: often"), "query_aware", "wrong-type", "true or",
    ),
    "yes for true": (_replace("query_aware: true", "query_aware: yes"), "query_aware", "ambiguous-value", "true"),
    "a date": (_replace("'2026-11-22'", "2026-11-22"), "updated:", "ambiguous-value", "'2026-11-22'"),
    "unknown quantity": (
        _replace("llm.vision-tokens", "llm.vision-tokns"), "quantity:", "bad-value", "llm.vision-tokens",
    ),
    "missing quantity": (_replace("- quantity: llm.vision-tokens\n ", "-"), "- scale:", "missing-key", "quantity"),
    "two changes at once": (
        _replace("scale: keep_ratio", "scale: 1\n  set: 2"), "quantity:", "bad-value", "exactly one",
    ),
    "closed choice": (_replace("status: described", "status: descried"), "status:", "bad-value", "'described'"),
    "too long": (_replace("Drops the", "Drops " + "x" * 300), "summary:", "bad-value", "280"),
    "bad parameter name": (_replace("layer:\n    type", "Layer:\n    type"), "Layer:", "bad-value", "lower-case"),
    "empty value": (
        _replace("explanation: Tokens", "explanation:\nx-ignored: Tokens"), "explanation:", "wrong-type", "text",
    ),
    "octal": (_replace("default: 2", "default: 0o2"), "default: 0o2", "ambiguous-value", "octal"),
    "clock": (_replace("name: Alpha", "name: 12:30"), "name:", "ambiguous-value", "base 60"),
    "infinite": (_replace("default: 0.5", "default: .inf"), "default:", "ambiguous-value", "finite"),
    "huge": (_replace("default: 0.5", "default: 1e999"), "default:", "ambiguous-value", "large"),
    "a mapping as setting": (
        _replace("- keep_ratio: 0.25", "- keep_ratio: {a: b}"), "- keep_ratio:", "wrong-type", "mapping",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_injected_fault_is_named_with_its_line_and_repair(case: str, root: Path) -> None:
    edit, line, rule, words = CASES[case]
    file = root / ALPHA
    text = edit(file.read_text())
    file.write_text(text)
    wanted = next(i for i, row in enumerate(text.splitlines(), 1) if line in row)
    faults = [fault for fault in check(root) if fault.rule == rule]
    assert [(str(fault.path), fault.line) for fault in faults] == [(ALPHA, wanted)], [str(f) for f in check(root)]
    shown = str(faults[0])
    assert words in shown
    assert "\n" not in shown
    assert "pydantic" not in shown


def test_all_faults_of_a_file_are_told_at_once(root: Path) -> None:
    file = root / ALPHA
    text = file.read_text().replace("query_aware: true", "query_aware: 3").replace("id: alpha", "id: Al Pha")
    file.write_text(text.replace("kind: cascades-to", "kind: Cascades"))
    assert [fault.rule for fault in check(root)] == ["bad-value", "wrong-type", "bad-value"]


def test_a_key_with_a_line_break_still_gives_one_line(root: Path) -> None:
    with (root / ALPHA).open("a") as file:
        file.write('"a\\nb": 1\n')
    (fault,) = check(root)
    assert "\n" not in str(fault)


def test_a_file_of_faults_is_cut_short(root: Path) -> None:
    (root / ALPHA).write_text("".join(f"key_{i}: x\n" for i in range(20_000)) + "? " + "x" * 10_000 + "\n: y\n")
    faults = check(root)
    assert len(faults) == 201
    assert "more faults" in str(faults)
    assert max(len(str(fault)) for fault in faults) < 500


def test_a_fault_in_a_vocabulary_is_placed_through_the_tag_of_its_kind(root: Path) -> None:
    file = root / "taxonomy/stage.yaml"
    text = file.read_text().replace("order: 2", "order: two")
    file.write_text(text)
    (fault,) = check(root)
    assert fault.line == text[: text.index("order: two")].count("\n") + 1
    assert "`terms[1].order`" in fault.message


def test_an_unknown_vocabulary_is_told_with_the_known_ones(root: Path) -> None:
    file = root / "taxonomy/stage.yaml"
    file.write_text(file.read_text().replace("vocabulary: stage", "vocabulary: stages"))
    (fault,) = check(root)
    assert (fault.line, fault.rule) == (1, "bad-value")
    assert "'stage'" in fault.repair
