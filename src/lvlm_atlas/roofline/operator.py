"""One operator of the model, or a run of equal ones: what it computes, what it moves, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

Bound = Literal["compute", "memory", "communication", "launch"]
"""What sets a time: arithmetic, memory traffic, traffic between devices, or starting kernels."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an operator does, over all layers and requests, before it is placed on a device."""

    name: str
    """What it is, such as `llm.query`."""
    kind: Literal["linear", "attention", "elementwise", "link", "technique"]
    """Kind of operator."""
    flop: float = 0.0
    """Floating-point operations; a multiply-add counts 2."""
    weight_byte: float = 0.0
    """Bytes of weights read."""
    activation_byte: float = 0.0
    """Bytes of activations read and written."""
    kv_byte: float = 0.0
    """Bytes of cache read."""
    vision_byte: float = 0.0
    """The part of `kv_byte` that holds vision tokens."""
    link_byte: float = 0.0
    """Bytes that one device sends to another."""
    host_byte: float = 0.0
    """Bytes fetched from the host."""
    kernels: float = 0.0
    """Kernels started."""
    shards: int = 1
    """Devices among which it is split evenly."""

    @property
    def byte(self) -> float:
        """All bytes moved."""
        return self.weight_byte + self.activation_byte + self.kv_byte


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator with its time on the device."""

    work: Work
    """What it does."""
    time_s: float
    """How long it takes, kernels' floors included."""
    bound: Bound
    """What sets that."""

    @property
    def intensity(self) -> float | None:
        """FLOP per byte; None where nothing is moved."""
        return self.work.flop / self.work.byte if self.work.byte else None


@dataclass(frozen=True, slots=True)
class Machine:
    """A device as the roofline sees it: walls and a floor."""

    flop_s: float
    """Arithmetic reached."""
    byte_s: float
    """Memory traffic reached."""
    floor_s: float
    """Time that each kernel takes on top."""
    link_byte_s: float
    """Traffic to another device; infinite where there is only one."""
    host_byte_s: float
    """Traffic from the host; infinite where memory is shared with it."""

    def time_s(self, work: Work) -> float:
        """The time alone, for searches that ask for it a million times."""
        wall = max(work.flop / self.flop_s, (work.weight_byte + work.activation_byte + work.kv_byte) / self.byte_s)
        wall /= work.shards
        if work.link_byte or work.host_byte:
            wall = max(wall, work.link_byte / self.link_byte_s + work.host_byte / self.host_byte_s)
        return wall + work.kernels * self.floor_s

    def run(self, work: Work) -> Operator:
        """The operator with its time: the longest of its walls (survey, eq. 10), and the floor of its kernels."""
        compute = work.flop / self.flop_s / work.shards
        memory = work.byte / self.byte_s / work.shards
        floor = work.kernels * self.floor_s
        wall, bound = (compute, "compute") if compute >= memory else (memory, "memory")
        if work.link_byte or work.host_byte:
            link = work.link_byte / self.link_byte_s + work.host_byte / self.host_byte_s
            wall, bound = (link, "communication") if link > wall else (wall, bound)
        return Operator(work, wall + floor, cast("Bound", "launch" if floor > wall else bound))
