"""Rows as a LaTeX table."""

import pytest

from lvlm_atlas.cli.latex import escaped, latex


def test_every_sign_of_latex_stands_for_itself() -> None:
    text = r"50% of $k_i$ & {a}~b^c \ #1 <x>"
    bare = escaped(text)
    for command, sign in (
        (r"\textbackslash{}", "\\"), (r"\textasciitilde{}", "~"), (r"\textasciicircum{}", "^"),
        (r"\textless{}", "<"), (r"\textgreater{}", ">"),
    ):  # fmt: skip
        bare = bare.replace(command, sign if sign != "\\" else "\0")
    for sign in "%$_&{}#":
        bare = bare.replace(f"\\{sign}", sign)
    assert bare.replace("\0", "\\") == text


def test_a_line_of_text_stays_one() -> None:
    assert escaped("a\n  b") == "a b"


@pytest.mark.parametrize("rows", [[], [["a&b", "x" * 50]], [["1", "2"], ["3 % off", "4"]]])
def test_a_table_has_a_cell_for_each_value_and_breaks_long_columns(rows: list[list[str]]) -> None:
    lines = latex(("one", "two_2"), rows).splitlines()
    assert lines[2:5] == ["\\toprule", "one & two\\_2 \\\\", "\\midrule"]
    assert len(lines) == len(rows) + 7
    for line in lines[5:-2]:
        assert line.replace(r"\&", "").count("&") == 1
        assert line.endswith(r" \\")
    long = any(len(cell) > 40 for row in rows for cell in row)
    assert ("p{0.8\\linewidth}" in lines[1]) == long
