"""What the commands of the guides print: run while the pages are made, and shown below each.

A block whose fence says `console output` asks for it. Commands of all blocks are broken where a page would cut them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.site.blocks import Blocks, mark, marked

COLUMNS = 76
"""Characters in a line of commands and of what they print: what a page shows on a screen of 1280 pixels."""
MOST, FEW = 24, 6
"""Lines of an output that are shown, and so many more where they are the last."""
_FENCE = re.compile(r"^```console( output)?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def shown(markdown: str, asked: list[str]) -> str:
    """A page with its commands broken into short lines, and a mark for each output; `asked` collects the commands."""

    def block(found: re.Match[str]) -> str:
        lines = [line for line in found[2].splitlines() if line]
        if not found[1]:
            return _fenced(lines)
        asked.extend(line.removeprefix("$ ") for line in lines)
        return "\n".join(f"{_fenced([line])}\n{_place(line.removeprefix('$ '))}\n" for line in lines)

    return _FENCE.sub(block, markdown)


def _fenced(lines: Iterable[str]) -> str:
    return "\n".join(("```console", *(part for line in lines for part in broken(line)), "```\n"))


def _place(command: str) -> str:
    return f'<div class="highlight la-output" role="region" aria-label="Output" tabindex="0">{mark(command)}</div>'


def broken(line: str, columns: int = COLUMNS) -> list[str]:
    """A command in lines that a shell joins again, where options begin."""
    rows: list[str] = []
    for part in re.split(r" (?=-)", line):
        if rows and len(rows[-1]) + len(part) + 3 <= columns:
            rows[-1] += f" {part}"
        else:
            rows.append(f"    {part}" if rows else part)
    return [f"{row} \\" for row in rows[:-1]] + rows[-1:]


@contextmanager
def running(commands: Iterable[str], root: Path) -> Iterator[Callable[[], Blocks]]:
    """Have commands run on an atlas. What is yielded waits for them and gives what they printed, as HTML by their mark.

    Raises:
        AtlasError: the program itself failed; a command that finds a fault says so on the page.
    """
    lines = list(dict.fromkeys(commands))
    command = [sys.executable, "-m", "lvlm_atlas.cli.transcript", str(COLUMNS)]
    process = subprocess.Popen(  # noqa: S603  our own interpreter and arguments
        command, env=os.environ | {"LVLM_ATLAS_ROOT": str(root)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

    def outputs() -> Blocks:
        out, err = process.communicate(json.dumps(lines))
        if process.returncode:
            raise AtlasError(f"the commands of the guides cannot be run: {err.strip().rpartition(chr(10))[2]}")
        return {marked(line): _html(*printed) for line, (_, *printed) in zip(lines, json.loads(out), strict=True)}

    try:
        yield outputs
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def _html(out: str, err: str) -> str:
    """What a command printed, its first lines alone."""
    rows = [row.rstrip() for row in (out + err).strip("\n").splitlines()]
    more = [f"… {len(rows) - MOST} more lines"] if len(rows) > MOST + FEW else []
    return f"<pre><code>{escape(chr(10).join((rows[:MOST] if more else rows) + more), quote=False)}\n</code></pre>"
