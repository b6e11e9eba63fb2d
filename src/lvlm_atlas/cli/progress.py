"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 10.0
"""Seconds between two lines where standard error is no terminal."""


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """A function to call after each of `total` steps, of which `done` are done already.

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
            yield lambda: bar.advance(task)
        return
    start = said = time.monotonic()

    def advance() -> None:
        nonlocal done, said
        done, now = done + 1, time.monotonic()
        if now - said >= EVERY_S:
            said = now
            print(f"{done} of {total} {what}, {now - start:.0f} s", file=sys.stderr, flush=True)  # noqa: T201

    print(f"{done} of {total} {what}", file=sys.stderr, flush=True)  # noqa: T201
    yield advance
