"""Files that are no plain, small, UTF-8 YAML mapping are refused, whatever they try."""

import os
from pathlib import Path

import pytest
import yaml

from lvlm_atlas.atlas import yaml_subset
from lvlm_atlas.atlas.document import MAX_BYTE, DocumentError, read
from lvlm_atlas.atlas.yaml_subset import MAX_DEPTH, Place, YamlFault, parse
from lvlm_atlas.fault import Fault


def _fault(tmp_path: Path, content: bytes) -> Fault:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, Path("x.yaml"))
    return caught.value.fault


BOMB = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (i + 1, i + 1, i, i) for i in range(97, 110))


@pytest.mark.parametrize(
    ("content", "rule", "line", "column"),
    [
        (b"", "empty-file", 1, 1),
        (b"# only words\n", "empty-file", 1, 1),
        (b"---\n", "empty-file", 2, 1),
        (b"- a\n", "not-a-mapping", 1, 1),
        (b"word\n", "not-a-mapping", 1, 1),
        (b"a: 1\nb: \xe9\n", "not-utf8", 2, 4),
        ("a: é\n".encode("utf-16"), "not-utf8", 1, 1),
        (b"a: 1\nb: x\x00y\n", "control-character", 2, 5),
        ("a: x\u202ey\n".encode(), "control-character", 1, 5),
        ("a: x\u2028y\n".encode(), "control-character", 1, 5),
        (b"a: 1\rb: 2\n", "control-character", 1, 5),
        (b"a: 1\n\tb: 2\n", "yaml-syntax", 2, 1),
        (b"a: [1, 2\nb: 3\n", "yaml-syntax", 2, 2),
        (b"a: b: c\n", "yaml-syntax", 1, 5),
        (b"a: 1\n---\nb: 2\n", "several-documents", 2, 1),
        (b"a: 1\nb: 2\na: 3\n", "duplicate-key", 3, 1),
        (b"a:\n  - {b: 1, b: 2}\n", "duplicate-key", 2, 12),
        (b"a: 1\n2: x\n", "key-not-text", 2, 1),
        (b"true: x\n", "key-not-text", 1, 1),
        (b"? [a, b]\n: x\n", "key-not-text", 1, 3),
        (b"on: x\n", "ambiguous-value", 1, 1),
        (b"a: &x 1\n", "yaml-feature", 1, 4),
        (b"a: *x\n", "yaml-feature", 1, 4),
        (b"a: !!python/object:os.system x\n", "yaml-feature", 1, 4),
        (b"a: !!str 1\n", "yaml-feature", 1, 4),
        (b"a:\n  <<: {b: 1}\n", "yaml-feature", 2, 3),
        (BOMB, "yaml-feature", 1, 4),
        (b"a: " + b"[" * (MAX_DEPTH + 1), "too-deep", 1, 3 + MAX_DEPTH),
        (b"a: " + b"[" * 100_000, "too-deep", 1, 3 + MAX_DEPTH),
        (b"a: " + b"{b: " * 50_000, "too-deep", 1, 4 * MAX_DEPTH),
        (b"a: " + b"9" * 5000, "ambiguous-value", 1, 4),
    ],
)
def test_what_no_entry_may_hold_is_refused_where_it_stands(
    tmp_path: Path, content: bytes, rule: str, line: int, column: int
) -> None:
    fault = _fault(tmp_path, content)
    assert (fault.rule, fault.line) == (rule, line), str(fault)
    if rule not in ("yaml-syntax", "too-deep"):
        assert fault.column == column
    assert "\n" not in str(fault)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    assert _fault(tmp_path, b"a: " + b"x" * MAX_BYTE).rule == "too-large"


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("\ufeffa: é\r\nb: [1, x]\r\n".encode())
    assert read(tmp_path, Path("x.yaml")).data == {"a": "é", "b": (1, "x")}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a: 1\n")
    root = tmp_path / "root"
    root.mkdir()
    (root / "x.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(DocumentError, match="symbolic-link"):
        read(root, Path("x.yaml"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(DocumentError, match="not-a-file"):
        read(tmp_path, Path("x.yaml"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\n")
    (tmp_path / "x.yaml").chmod(0)
    with pytest.raises(DocumentError, match="unreadable"):
        read(tmp_path, Path("x.yaml"))


def test_a_file_that_has_gone_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="unreadable"):
        read(tmp_path, Path("x.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("null", None), ("", None), ("12", 12), ("-3", -3), ("0", 0), ("1.50", 1.5),
        ("1e-3", 0.001), (".5", 0.5), ("N", "N"), ("y", "y"), ("'2403.06764'", "2403.06764"), ("'yes'", "yes"),
        ("keep_ratio * 2", "keep_ratio * 2"), ("[1, x]", (1, "x")), ("1.2.3", "1.2.3"), ('"2026-11-22"', "2026-11-22"),
        ("{}", {}), ("[]", ()), (">-\n  a\n  b", "a b"),
    ],
)  # fmt: skip
def test_a_scalar_is_text_unless_it_is_plainly_a_number_or_a_truth_value(text: str, value: object) -> None:
    got = parse(f"a: {text}\n")["a"]
    assert got == value
    assert type(got) is type(value)


def test_places_are_those_of_keys_and_values() -> None:
    places: dict[tuple[str | int, ...], Place] = {}
    parse("a: 1\nb:\n  - c: [x, 'y']\n  -\n    d:\n", places)
    assert places["a",] == Place((1, 1), (1, 4), "1")
    assert places["b", 0].value == (3, 5)
    assert places["b", 0, "c", 1] == Place((3, 12), (3, 12), "y")
    assert places["b", 1, "d"].value == (5, 5)


def test_the_slow_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: [1, {b: 'x'}]\nc: >-\n  d\n  e\n"
    fast = parse(text)
    monkeypatch.setattr(yaml_subset, "_PARSER", yaml.SafeLoader)
    assert parse(text) == fast
    with pytest.raises(YamlFault):
        parse("a: *b\n")
