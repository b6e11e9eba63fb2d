"""What a batch takes of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Spent(NamedTuple):
    """What a batch takes: its time alone on the devices, and the parts of it that either wall would take."""

    time_s: float
    compute_s: float = 0.0
    memory_s: float = 0.0

    def __add__(self, other: object) -> Spent:
        """Both, one after the other."""
        assert isinstance(other, Spent)  # noqa: S101
        return Spent(
            self.time_s + other.time_s, self.compute_s + other.compute_s, self.memory_s + other.memory_s
        )  # fmt: skip

    def beside(self, other: Spent) -> float:
        """Time of both at once: no less than either alone, nor than the devices need for the sum of their work."""
        return max(
            self.time_s, other.time_s, self.compute_s + other.compute_s, self.memory_s + other.memory_s
        )  # fmt: skip


NOTHING = Spent(0.0)


@dataclass(frozen=True, slots=True)
class Slice:
    """A share of a device's multiprocessors."""

    compute: float = 1.0
    bandwidth: float = 1.0
