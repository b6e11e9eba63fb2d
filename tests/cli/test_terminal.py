"""Blocks are laid out as rich lays them out, without rich, but for words that would be broken."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from lvlm_atlas.cli.terminal import Block, Column, Indented, Table, Text, cells, show

WORDS = st.text("ab·→é漢 \n", max_size=60).map(lambda text: text.strip() or "a")
CELLS = st.text("ab·→é ", max_size=30).map(str.strip)


def laid_out(block: Block, width: int) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in block.lines(width)]


def by_rich(block: object, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width, highlight=False, markup=False, emoji=False).print(block)
    return [line.rstrip() for line in text.getvalue().splitlines()]


@given(WORDS, st.integers(8, 40))
def test_text_is_broken_as_by_rich(text: str, width: int) -> None:
    assert laid_out(Text(text), width) == by_rich(RichText(text), width)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4), st.integers(40, 90), st.booleans())
def test_a_table_is_laid_out_as_by_rich(rows: list[tuple[str, ...]], width: int, wrap: bool) -> None:
    ours = Table([Column("id", "bold", wrap=wrap), Column("what it is"), Column("n")])
    ours.rows += rows
    theirs = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ours.columns:
        theirs.add_column(column.name, overflow="fold", no_wrap=not column.wrap)
    for row in rows:
        theirs.add_row(*row)
    words = {word for row in rows for cell in row for word in cell.split()}
    lines = by_rich(theirs, width)
    assume(words <= {word for line in lines for word in line.split()})
    assume(laid_out(ours, width)[1].startswith(" id"))  # else rows are listed, which rich never does
    assert laid_out(ours, width) == lines


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), st.integers(40, 60))
def test_a_grid_is_laid_out_as_by_rich(rows: list[tuple[str, str]], width: int) -> None:
    ours = Table([Column(style="dim", wrap=False), Column()], head=False)
    ours.rows += rows
    theirs = RichTable.grid(padding=(0, 2))
    theirs.add_column(no_wrap=True)
    theirs.add_column(overflow="fold")
    for row in rows:
        theirs.add_row(*row)
    assert laid_out(ours, width) == by_rich(theirs, width)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4), st.integers(40, 90))
def test_no_table_breaks_a_word_that_a_line_holds(rows: list[tuple[str, ...]], width: int) -> None:
    table = Table([Column("id", wrap=False), Column("what it is"), Column("n")])
    table.rows += rows
    lines = laid_out(table, width)
    assert all(cells(line) <= width for line in lines)
    words = {word for row in rows for cell in row for word in cell.split()}
    assert words <= {word for line in lines for word in line.split()}


def test_a_row_whose_column_may_be_cut_stays_one_line() -> None:
    table = Table([Column("id", wrap=False), Column("summary", cut=True)])
    table.rows += [("fastv", "drops tokens after an early layer"), ("kivi", "2 bits")]
    assert laid_out(table, 24)[3:] == [" fastv   drops tokens…", " kivi    2 bits", ""]
    assert laid_out(table, 60)[3:] == [" fastv   drops tokens after an early layer", " kivi    2 bits", ""]


def test_a_word_too_long_for_its_line_is_broken_at_a_joint() -> None:
    assert laid_out(Text("reads memory-bandwidth-bound/kernels"), 18) == ["reads", "memory-bandwidth-", "bound/kernels"]
    assert laid_out(Text("memory-bandwidth"), 10) == ["memory-", "bandwidth"]
    assert laid_out(Text("bandwidth"), 4) == ["band", "widt", "h"]


def test_a_table_without_room_for_its_words_lists_its_rows() -> None:
    table = Table([Column("id", wrap=False), Column("stage"), Column("training")])
    table.rows += [("adaptive-keyframe-sampling", "encoding", ""), ("kivi", "decoding", "none at all")]
    assert laid_out(table, 40) == [
        "",
        "adaptive-keyframe-sampling",
        "  stage     encoding",
        "",
        "kivi",
        "  stage     decoding",
        "  training  none at all",
        "",
    ]


@given(WORDS, st.integers(1, 30))
def test_no_line_is_too_wide_and_no_letter_is_lost(text: str, width: int) -> None:
    lines = laid_out(Indented(Text(text), 2), width + 4)
    assert all(cells(line) <= width + 4 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_styles_follow_their_letters_over_the_end_of_a_line() -> None:
    text = Text.assemble("one ", ("two three", "bold"), " four")
    assert list(text.lines(8)) == [(("one ", ""), ("two ", "bold")), (("three", "bold"), (" ", "")), (("four", ""),)]


def test_a_terminal_gets_styles_and_a_pipe_gets_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show(Text("loud", "bold"))
    assert capsys.readouterr().out == "loud\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    show(Text("loud", "bold"))
    assert capsys.readouterr().out == "\x1b[1mloud\x1b[0m\n"
    monkeypatch.setenv("TERM", "dumb")
    show(Text("loud", "bold"))
    assert capsys.readouterr().out == "loud\n"


@pytest.mark.parametrize(
    "command", [["list"], ["show", "fastv"], ["query", "within(fastv, 2)"], ["models"], ["terms", "need"]]
)
def test_commands_that_browse_import_no_slow_library(command: list[str]) -> None:
    code = (
        "import sys; from lvlm_atlas.cli import main; sys.argv[1:] = {command!r}\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'rich', 'torch', 'networkx'} & set(sys.modules)"
    ).replace("{command!r}", repr(command))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("lines", "paged"), [(5, False), (60, True)])
def test_what_is_longer_than_the_terminal_goes_through_the_pager(lines: int, paged: bool, tmp_path: Path) -> None:
    log = tmp_path / "paged"
    program = (
        "import os, pty, sys\n"
        f"os.environ.update(PAGER='tee {log}', TERM='xterm', LINES='24', COLUMNS='80')\n"
        "code = 'from lvlm_atlas.cli.terminal import write; write(chr(10).join(map(str, range({}))) + chr(10))'\n"
        f"pty.spawn([sys.executable, '-c', code.format({lines})])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert str(lines - 1) in said.stdout
    assert log.exists() == paged
