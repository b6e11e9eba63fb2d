"""Words that bash breaks at `:` and `=` before it asks what completes them, joined again."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

BREAKS = (":", "=")


@contextmanager
def whole_words() -> Iterator[None]:
    """Completes whole words, `fastv:la` for bash's `fastv`, `:`, `la`; what is printed replaces bash's last part.

    Other shells, and a bash whose COMP_WORDBREAKS has no such signs, break none.
    """
    words, at = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if not at.isdecimal() or not any(word in BREAKS for word in words):
        yield
        return
    words, place = _joined(words, int(at))
    os.environ.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(place))
    held = words[place][: 1 + max(map(words[place].rfind, BREAKS))]
    with redirect_stdout(io.StringIO()) as offers:
        try:
            yield
        finally:
            assert sys.__stdout__ is not None  # noqa: S101 - the shell reads it
            sys.__stdout__.writelines(f"{_without(held, offer)}\n" for offer in offers.getvalue().splitlines())


def _joined(words: Sequence[str], at: int) -> tuple[list[str], int]:
    """Whole words, and the place of the one that holds word `at`."""
    whole: list[list[int]] = []
    for index, word in enumerate(words):
        if whole and (word in BREAKS or words[index - 1] in BREAKS):
            whole[-1].append(index)
        else:
            whole.append([index])
    place = next((number for number, parts in enumerate(whole) if at in parts), len(whole) - 1)
    return ["".join(words[index] for index in parts) for parts in whole], place


def _without(held: str, offer: str) -> str:
    """The end of an offer that bash does not hold yet; of an option it holds the name too, which no offer has."""
    begins = (held[start:] for start in range(len(held)))
    return next((offer.removeprefix(begin) for begin in begins if offer.startswith(begin)), offer)
