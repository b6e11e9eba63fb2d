"""Text and tables laid out for a terminal: as rich lays them out, but rich takes as long to import as a command to run.

Unlike rich, a word that must be broken is broken behind a `-`, `_`, `/`, `.`, `:` or `=` if it has one, columns do not
shrink below their longest word, and a table that has no room even so lists each row by itself.

A block is anything with `lines(width)`; a line is a tuple of pieces, each a text with a style: "", "bold" or "dim".
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import NamedTuple, Protocol

Piece = tuple[str, str]
Line = tuple[Piece, ...]

_WORD = re.compile(r"\s*\S+\s*")
_JOINTS = re.compile(r"(?<=[-_/.:=])(?=[^-_/.:=\s])")
"""Where a word may be broken without hurting it."""
_CODES = {"": "", "bold": "\x1b[1m", "dim": "\x1b[2m"}
_RESET = "\x1b[0m"
_LEAST = 8
"""Cells that a column keeps however much of it is cut."""


class Block(Protocol):
    """What can be printed."""

    def lines(self, width: int) -> Iterator[Line]:
        """Its lines, none wider than so many cells."""

    def natural_width(self) -> int:
        """Cells that it takes if nothing is broken."""


class Text:
    """Text that is broken between words, and inside words that are longer than a line."""

    def __init__(self, text: str, style: str = "") -> None:
        self.pieces: Line = ((text, style),)

    @classmethod
    def assemble(cls, *parts: str | Piece) -> Text:
        """Text of several styles; a plain string has none."""
        text = cls("")
        text.pieces = tuple((part, "") if isinstance(part, str) else part for part in parts)
        return text

    @property
    def plain(self) -> str:
        """The text without its styles."""
        return "".join(text for text, _ in self.pieces)

    def natural_width(self) -> int:
        """Cells of its longest line."""
        return _longest_line(self.plain)

    def lines(self, width: int, wrap: bool = True) -> Iterator[Line]:
        """Its lines, broken to the width, or cut to it."""
        start = 0
        for line in self.plain.split("\n"):
            cuts = [0, *(_breaks(line, width) if wrap and cells(line) > width else ()), len(line)]
            for one, two in pairwise(cuts):
                kept = _cut(line[one:two], width)
                yield self._slice(start + one, start + one + len(kept))
            start += len(line) + 1

    def _slice(self, start: int, end: int) -> Line:
        pieces = []
        at = 0
        for text, style in self.pieces:
            part = text[max(start - at, 0) : max(end - at, 0)]
            if part:
                pieces.append((part, style))
            at += len(text)
        return tuple(pieces)


class Indented(NamedTuple):
    """A block further in."""

    block: Block
    by: int = 2

    def natural_width(self) -> int:
        """Cells that it takes if nothing is broken."""
        return self.by + self.block.natural_width()

    def lines(self, width: int) -> Iterator[Line]:
        """The lines of the block, moved to the right."""
        for line in self.block.lines(width - self.by):
            yield ((" " * self.by, ""), *line)


class Column(NamedTuple):
    """A column of a table."""

    name: str = ""
    style: str = ""
    wrap: bool = True
    """Whether its cells may be broken."""
    right: bool = False
    """Whether its cells stand at its right."""
    cut: bool = False
    """Whether its cells end with `…` where they have no room, so that a row stays one line."""


@dataclass
class Table:
    """A table whose widest columns give way."""

    columns: Sequence[Column]
    head: bool = True
    """Whether it has the names of its columns with a rule below them, three cells between columns, and blank lines
    around it."""
    gap: int = 2
    """Cells between the columns of a table without a head."""
    rows: list[Sequence[str]] = field(default_factory=list)

    def natural_width(self) -> int:
        """Cells that it takes if nothing is broken."""
        return sum(self._widths(None)) + self._frame

    def lines(self, width: int) -> Iterator[Line]:
        """Its lines; cells are cut or broken where the table would not fit, rows listed where its words would not."""
        if any(column.cut for column in self.columns) and (over := self.natural_width() - width) > 0:
            yield from self._shortened(over).lines(width)
            return
        natural, room = self._widths(None), width - self._frame
        widths = natural if sum(natural) <= room else self._widths(room)
        if self.head and self.rows and widths != natural and self._breaks_words(widths):
            floors = [self._longest_word(at) for at in range(len(widths))]
            if sum(floors) > room:
                yield from self._listed(width)
                return
            spare = [most - floor for most, floor in zip(natural, floors, strict=True)]
            widths = _reduced(natural, sum(spare) + sum(floors) - room, spare, spare)
        if self.head:
            yield ()
            for parts in _sunk(self._row([column.name for column in self.columns], widths, ["bold"] * len(widths))):
                yield self._joined(parts, widths)
            yield ((f" {'─' * (sum(widths) + len(widths) - 1)} ", ""),)
        for row in self.rows:
            for parts in self._row(row, widths, [column.style for column in self.columns]):
                yield self._joined(parts, widths)
        if self.head:
            yield ()

    def _shortened(self, over: int) -> Table:
        """The table with the columns that may be cut so many cells narrower in all, the first one first."""
        rows = [list(row) for row in self.rows]
        for at, column in enumerate(self.columns):
            if column.cut:
                widest = max((cells(row[at]) for row in rows), default=0)
                room = max(_LEAST, widest - over)
                over -= widest - room
                for row in rows:
                    row[at] = shortened(row[at], room)
        columns = [column._replace(cut=False) for column in self.columns]
        return Table(columns, self.head, self.gap, [*rows])

    def _listed(self, width: int) -> Iterator[Line]:
        """Each row by itself: its first cell, and below it the others with the names of their columns."""
        first, *others = self.columns
        names = max((cells(column.name) for column in others), default=0)
        yield ()
        for row in self.rows:
            yield from Text(row[0], first.style).lines(width)
            for column, text in zip(others, row[1:], strict=True):
                if text:
                    lines = Text(text, column.style).lines(width - names - 4)
                    for name, line in zip_longest((column.name,), lines, fillvalue=""):
                        yield ((f"  {name}{' ' * (names - cells(name))}  ", "dim"), *line)
            yield ()

    def _breaks_words(self, widths: Sequence[int]) -> bool:
        return any(width < self._longest_word(at) for at, width in enumerate(widths))

    def _longest_word(self, column: int) -> int:
        """Cells of the longest part of a column that must not be broken, with the column's part of the gaps."""
        texts = [self.columns[column].name, *(row[column] for row in self.rows)]
        if not self.columns[column].wrap:
            return self._widths(None)[column]
        parts = (part for text in texts for word in text.split() for part in _JOINTS.split(word))
        return max(map(cells, parts), default=0) + self._before(column) + self._after(column)

    @property
    def _frame(self) -> int:
        """Cells around and between columns that belong to none."""
        return len(self.columns) + 1 if self.head else 0

    def _row(self, texts: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> Iterator[tuple[Line, ...]]:
        """The lines of a row, each as the parts of its cells."""
        columns = [
            Text(text, style).lines(width - self._before(at) - self._after(at), column.wrap)
            for at, (text, style, width, column) in enumerate(zip(texts, styles, widths, self.columns, strict=True))
        ]
        return zip_longest(*columns, fillvalue=())

    def _joined(self, parts: Sequence[Line], widths: Sequence[int]) -> Line:
        """One line of a row."""
        line: list[Piece] = []
        for at, (part, width) in enumerate(zip(parts, widths, strict=True)):
            blank = width - self._before(at) - self._after(at) - sum(cells(text) for text, _ in part)
            left, right = (blank, 0) if self.columns[at].right else (0, blank)
            line += [(" " * (self._before(at) + self.head + left), ""), *part, (" " * (right + self._after(at)), "")]
        return tuple(line)

    def _before(self, column: int) -> int:
        """Blank cells that a column begins with."""
        return 1 if self.head and column else 0

    def _after(self, column: int) -> int:
        """Blank cells that a column ends with."""
        return (1 if self.head else self.gap) if column < len(self.columns) - 1 else 0

    def _widths(self, most: int | None) -> list[int]:
        """Cells of each column with its part of the gaps; of the widest ones fewer, if there are not so many."""
        texts = zip(*([column.name for column in self.columns], *self.rows), strict=True)
        widths = [
            max(map(_longest_line, column)) + self._before(at) + self._after(at) for at, column in enumerate(texts)
        ]
        if most is None or sum(widths) <= most:
            return widths
        may_give = [column.wrap for column in self.columns]
        while sum(widths) > most and any(may_give):
            widest = max(width for width, gives in zip(widths, may_give, strict=True) if gives)
            next_widest = max(
                (width for width, gives in zip(widths, may_give, strict=True) if gives and width != widest), default=0
            )
            shares = [int(gives and width == widest) for width, gives in zip(widths, may_give, strict=True)]
            excess = sum(widths) - most
            widths = _reduced(widths, excess, shares, [min(excess, widest - next_widest)] * len(widths))
            if widest == next_widest:
                break
        if sum(widths) > most:
            widths = _reduced(widths, sum(widths) - most, [1] * len(widths), widths)
        return widths


def show(*blocks: Block) -> None:
    """Print for people: at the terminal's width, or, where output is no terminal, plain and without trailing blanks."""
    width = line_width()
    styled = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    lines = (line for block in blocks for line in block.lines(width))
    write("".join(f"{(_styled(line) if styled else _plain(line)).rstrip()}\n" for line in lines))


def line_width() -> int:
    """Cells of a line: the terminal's, or 100 where output is none."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size((80, 24)).columns if known else 100


def write(text: str) -> None:
    """Print a text for people: through their pager where it is longer than the terminal, else as it is."""
    height = shutil.get_terminal_size((80, 24)).lines
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb" or text.count("\n") < height:
        sys.stdout.write(text)
        return
    import shlex
    import subprocess

    pager = shlex.split(os.environ.get("PAGER", "less"))
    if pager and shutil.which(pager[0]):
        # less leaves what fits, keeps colours, and does not clear the screen when it ends.
        subprocess.run(pager, input=text.encode(), env={"LESS": "FRX", **os.environ}, check=False)  # noqa: S603
    else:
        sys.stdout.write(text)


def cells(text: str) -> int:
    """Cells of a terminal that a text takes: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return len(text) + sum(_cells_of(character) - 1 for character in text if not character.isascii())


def _longest_line(text: str) -> int:
    """Cells of the longest line of a text."""
    return max(map(cells, text.split("\n")))


def shortened(text: str, width: int) -> str:
    """A text that fits, ended with `…` where something is missing."""
    return text if cells(text) <= width else f"{_cut(text, width - 1).rstrip()}…"


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _plain(line: Line) -> str:
    return "".join(text for text, _ in line)


def _styled(line: Line) -> str:
    return "".join(f"{_CODES[style]}{text}{_RESET}" if style and text.strip() else text for text, style in line)


def _breaks(text: str, width: int) -> Iterator[int]:
    """Where a line is broken: before the words that do not fit any more, and inside those that never would."""
    used, measured = 0, len if text.isascii() else cells
    for match in _WORD.finditer(text):
        start, word = match.start(), match[0]
        needed = measured(word.rstrip())
        if needed <= width - used:
            used += measured(word)
        elif needed > width:
            for part in _chopped(word, width):
                if start:
                    yield start
                start += len(part)
                used = cells(part)
        elif used and start:
            yield start
            used = measured(word)


def _chopped(word: str, width: int) -> Iterator[str]:
    """A word in parts that fit, broken at its joints where it has them."""
    while word:
        part = _cut(word, width) or word[0]
        if len(part) < len(word.rstrip()):
            joints = [match.start() for match in _JOINTS.finditer(word) if match.start() <= len(part)]
            part = word[: joints[-1]] if joints else part
        yield part
        word = word[len(part) :]


def _cut(text: str, width: int) -> str:
    """As much of a text as fits."""
    if text.isascii() or cells(text) <= width:
        return text[:width] if text.isascii() else text
    used = 0
    for at, character in enumerate(text):
        used += _cells_of(character)
        if used > width:
            return text[:at]
    return text


def _sunk(row: Iterator[tuple[Line, ...]]) -> Iterator[tuple[Line, ...]]:
    """The lines of a row whose cells stand at its bottom."""
    columns = [[part for part in column if part] for column in zip(*row, strict=True)]
    height = max(map(len, columns))
    return zip(*([()] * (height - len(column)) + column for column in columns), strict=True)


def _reduced(widths: Sequence[int], by: int, shares: Sequence[int], at_most: Sequence[int]) -> list[int]:
    """Widths less `by` in all, spread by shares, no width reduced by more than its own bound."""
    shares = [share if bound else 0 for share, bound in zip(shares, at_most, strict=True)]
    left = sum(shares)
    reduced = []
    for width, share, bound in zip(widths, shares, at_most, strict=True):
        cut = min(bound, round(share * by / left)) if share and left else 0
        reduced.append(width - cut)
        by -= cut
        left -= share
    return reduced
