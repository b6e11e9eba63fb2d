"""What a batch takes of a device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lvlm_atlas.roofline.operator import Machine, Work
from lvlm_atlas.roofline.runtime import Host


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


def spent(machine: Machine, works: Iterable[Work]) -> Spent:
    """What operators take one after the other."""
    time = compute = memory = 0.0
    for work in works:
        time += machine.time_s(work)
        flop_s, byte_s, _ = machine.walls[work.law or work.kind]
        compute += work.flop / flop_s / work.shards
        memory += work.byte / byte_s / work.shards
    return Spent(time, compute, memory)


def waited(host: Host, alone: Spent, serial_s: float, start_s: float) -> Spent:
    """A pass with what it waits for the host: before it, and until all its kernels have been started."""
    if host.hides:
        return alone._replace(time_s=serial_s + max(alone.time_s, start_s))
    return alone._replace(time_s=serial_s + alone.time_s + start_s)


@dataclass(frozen=True, slots=True)
class Slice:
    """A share of a device's multiprocessors."""

    compute: float = 1.0
    bandwidth: float = 1.0
