"""Encoder sequences of one shape, counted together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from lvlm_atlas.roofline.visual import Patches


def merged(patches: Iterable[Patches]) -> tuple[Patches, ...]:
    """The same sequences, one entry for each distinct shape, in the order in which the shapes first come."""
    count: Counter[Patches] = Counter()
    for each in patches:
        count[replace(each, sequences=1)] += each.sequences
    return tuple(replace(shape, sequences=sequences) for shape, sequences in count.items() if sequences)


def tiles(count: int, *, tile: int, patch: int, class_token: bool = False) -> tuple[Patches, ...]:
    """Square tiles, each a sequence of its own; none if there is none to count.

    Args:
        count: tiles.
        tile: side in pixels; what is left over after whole patches is cut.
        patch: side in pixels.
        class_token: whether each tile carries one.
    """
    per_tile = (tile // patch) ** 2
    return merged([Patches(count, per_tile + class_token, per_tile)])
