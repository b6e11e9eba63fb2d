"""What is wrong with a file of the atlas, and the error that carries every such fault at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lvlm_atlas.characters import one_line

MOST_MESSAGE = 600
"""Characters of a message or a repair, at most."""


@dataclass(frozen=True, order=True, kw_only=True)
class Fault:
    """One fault: where it is, which rule it breaks, what was found, and the repair.

    `line` and `column` count from 1. `path` is relative to the atlas' root where it lies under it.
    """

    path: Path
    line: int = 1
    column: int = 1
    rule: str
    message: str
    """What is wrong and what was got, one line."""
    repair: str
    """What to do about it, one line in the imperative."""
    level: Literal["error", "warning"] = "error"
    """Whether the atlas is unsound, or only untidy."""

    def __post_init__(self) -> None:
        """What a file says stays one line of what can be seen, so that no file forges the faults of another."""
        object.__setattr__(self, "message", one_line(self.message, MOST_MESSAGE))
        object.__setattr__(self, "repair", one_line(self.repair, MOST_MESSAGE))
        object.__setattr__(self, "path", Path(one_line(str(self.path))))

    def __str__(self) -> str:
        mark = "" if self.level == "error" else "warning: "
        return f"{self.path}:{self.line}:{self.column}: {mark}{self.rule}: {self.message}; {self.repair}"


class AtlasError(ValueError):
    """A fault of the user's input. The command line turns it into one line and an exit code."""

    exit_code = 2


class FaultsError(AtlasError):
    """The atlas under a root has faults; all of them are in `faults`."""

    exit_code = 1

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(faults))
        super().__init__("\n".join(map(str, self.faults)))


def suggestion(word: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """`did you mean 'x'?` for the nearest of the known words, else a list of what there is: `listed`, if given."""
    from difflib import get_close_matches  # noqa: PLC0415 - most commands suggest nothing

    words = sorted(set(known))
    near = get_close_matches(word, words, n=1, cutoff=0.6) or get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    words = words if listed is None else sorted(set(listed))
    if not words:
        return "none is known"
    shown = ", ".join(words[:12])
    return f"known: {shown}" + (f", … ({len(words)} in all)" if len(words) > 12 else "")
