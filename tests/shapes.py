"""Holds the letters in names of tensors against their shapes: `key_BGSd` has four axes, and B is one size in a call.

Whenever a function of the reference returns, its variables are looked at: within one call a letter means one size, a
digit is the size itself. B may be 1 besides, where a tensor stands for all sequences, and positions may have one axis
more than their name, where they have several ids. Nothing is wrapped: Python tells
of each return (`sys.setprofile`), so that it costs nothing where it is off.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import lvlm_atlas.reference

REFERENCE = str(Path(lvlm_atlas.reference.__file__).parent)
CHECKED = tuple(f"{REFERENCE}/{room}/" for room in ("ops", "techniques"))
"""The functions that are looked at."""
_LETTERS = re.compile(r"_((?=[a-z0-9]*[A-Z]|d$)[A-Za-z0-9]+)$")
"""What stands behind the last underscore of a name: letters of axes, at least one of them a capital, or d alone."""


class ShapeError(AssertionError):
    """A name says another shape than the tensor has."""


def check(variables: Mapping[str, Any], where: str = "here") -> None:
    """Hold variables with letters in their names against their shapes.

    Raises:
        ShapeError: a tensor has another number of axes than its name, or a letter means two sizes.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in variables.items():
        letters = _LETTERS.search(name)
        if letters is None or not isinstance(value, torch.Tensor):
            continue
        axes, shape = letters[1], tuple(value.shape)
        if len(axes) != len(shape) - (name.startswith("position_") and len(shape) == len(axes) + 1):
            raise ShapeError(f"{where}: {name} has {len(shape)} axes, {shape}")
        for letter, size in zip(axes, shape, strict=False):
            known, other = (int(letter), "the digit") if letter.isdigit() else sizes.setdefault(letter, (size, name))
            if letter == "B" and 1 in (known, size):
                sizes[letter] = max((known, other), (size, name))
            elif size != known:
                raise ShapeError(f"{where}: {letter} is {size} in {name} {shape}, {known} in {other}")


@contextmanager
def checked(files: tuple[str, ...] = CHECKED) -> Iterator[None]:
    """Inside, every function in files that begin so is checked when it returns."""
    before = sys.getprofile()

    def look(frame: FrameType, event: str, result: object) -> None:
        # None is also what a function leaves that an exception ends, its variables half made.
        if event == "return" and result is not None and frame.f_code.co_filename.startswith(files):
            code = frame.f_code
            check(frame.f_locals, f"{code.co_filename.removeprefix(REFERENCE)}:{code.co_firstlineno} {code.co_name}")

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
