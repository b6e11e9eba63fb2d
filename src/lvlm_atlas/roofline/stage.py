"""One stage of a request: its operators and their sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lvlm_atlas.roofline.operator import Bound, Operator

STAGES = ("encoding", "prefilling", "decoding")
"""The stages, in order."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the request, all its passes together."""

    name: str
    """`encoding`, `prefilling` or `decoding`."""
    operators: tuple[Operator, ...]
    """What it runs."""
    time_s: float
    """How long it takes."""
    flop: float
    """Floating-point operations, over all devices."""
    byte: float
    """Bytes moved to and from device memory, over all devices."""
    bound: Bound
    """What sets most of its time."""

    @property
    def intensity(self) -> float | None:
        """FLOP per byte; None where nothing is moved."""
        return self.flop / self.byte if self.byte else None

    @property
    def flop_s(self) -> float:
        """Arithmetic reached by all devices together."""
        return self.flop / self.time_s if self.time_s else 0.0


def summed(name: str, operators: Sequence[Operator]) -> Stage:
    """The stage of these operators."""
    by_bound: dict[Bound, float] = defaultdict(float)
    time_s = flop = byte = 0.0
    for each in operators:
        by_bound[each.bound] += each.time_s
        time_s += each.time_s
        flop += each.work.flop
        byte += each.work.byte
    bound = max(by_bound, key=lambda b: by_bound[b]) if by_bound else "compute"
    return Stage(name, tuple(operators), time_s, flop, byte, bound)
