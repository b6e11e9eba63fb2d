"""Progress on standard error: a bar on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 10.0
"""Seconds between two lines of steps without names where standard error is no terminal."""


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A function to call after each of `total` steps, of which `done` are done already.

    Where standard error is no terminal, a step that is given a name has a line of its own; of steps without names there
    is a line now and then.

    Args:
        what: the steps in words, such as `techniques on cpu, float32`.
        total: how many steps there are.
        done: how many were done before.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{total} {what}", total=total, completed=done)
            yield lambda name="": bar.advance(task)  # noqa: ARG005 - the bar has no room for names
        return
    start = last = time.monotonic()

    def advance(name: str = "") -> None:
        nonlocal done, last
        done, now = done + 1, time.monotonic()
        if name:
            _line(f"{done} of {total}: {name}, {now - start:.0f} s")
        elif now - last >= EVERY_S:
            last = now
            _line(f"{done} of {total} {what}, {now - start:.0f} s")

    _line(f"{done} of {total} {what}")
    yield advance


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
