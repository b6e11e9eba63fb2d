"""Guides show what their commands print, and no command is longer than a page is wide."""

from __future__ import annotations

import shlex
from html import unescape
from pathlib import Path

import pytest

from lvlm_atlas.site.blocks import marked, put_aside, put_back
from lvlm_atlas.site.outputs import COLUMNS, FEW, MOST, broken, running, shown

GUIDES = sorted((Path(__file__).resolve().parents[2] / "site/pages").glob("*.md"))


def test_a_block_that_asks_for_it_gets_a_place_for_the_output_of_each_command() -> None:
    asked: list[str] = []
    page = shown("```console output\n$ lvlm-atlas one\n$ lvlm-atlas two\n```\n\n```console\n$ three\n```\n", asked)
    assert asked == ["lvlm-atlas one", "lvlm-atlas two"]
    assert page.count("```console\n") == 3
    assert page.index("one") < page.index(marked(asked[0])) < page.index("two") < page.index(marked(asked[1]))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_no_command_of_a_guide_is_cut_and_a_shell_reads_it_as_before(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    for line in (line for line in text.splitlines() if line.startswith("$ ")):
        rows = broken(line)
        assert max(map(len, rows)) <= COLUMNS + 10, rows
        assert shlex.split("\n".join(rows).replace("\\\n", ""), comments=True) == shlex.split(line, comments=True)


def test_what_is_printed_is_what_the_command_prints_its_first_lines_alone(checkout: Path) -> None:
    lines = ["lvlm-atlas query 'stage:decoding' --format ids", "lvlm-atlas show nothing-of-the-kind"]
    with running(lines, checkout) as outputs:
        printed = outputs()
    many, refused = (unescape(printed[marked(line)]) for line in lines)
    rows = many.removeprefix("<pre><code>").split("\n")
    assert "kivi" in many or rows[MOST].startswith("… ")
    assert len(rows) <= MOST + FEW + 2
    assert "nothing-of-the-kind" in refused


def test_what_is_put_aside_comes_back_as_it_was() -> None:
    page = 'a <svg xmlns="x"><g></g></svg> b <pre><code>1\n\n2</code></pre> <svg>stays</svg>'
    blocks: dict[str, str] = {}
    aside = put_aside(page, blocks)
    assert len(blocks) == 2
    assert "xmlns" not in aside
    assert put_back(aside, blocks) == page
