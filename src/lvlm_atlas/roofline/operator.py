"""One operator of the model, or a run of equal ones: what it computes, what it moves, and how long that takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

Bound = Literal["compute", "memory", "communication", "launch", "host"]
"""What sets a time: arithmetic, memory traffic, traffic between devices, starting kernels, or work of the host."""
LAWS = (
    "linear", "narrow", "grouped", "attention", "cache", "encoder-attention", "window-attention", "elementwise",
    "link", "technique",
)  # fmt: skip
"""Kinds of operators that kernels reach different shares of the peaks in. `narrow`: products with weights of fewer than
16 bits, `grouped`: with experts; `attention`: of the prompt, `cache`: over the cache."""
FEW_ROWS = 16
"""Rows up to which products with narrow weights run in kernels of their own, which unpack weights for each row."""
Walls = tuple[float, float, float]
"""FLOP/s, bytes a second, and the time that each kernel takes on top."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an operator does, over all layers and requests, before it is placed on a device."""

    name: str
    """What it is, such as `llm.query`."""
    kind: Literal["linear", "attention", "elementwise", "link", "technique", "host"]
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
    law: str = ""
    """The kind of `LAWS` that it goes by; empty: that of its own `kind`."""
    host_s: float = 0.0
    """Seconds on the host, while the device waits."""
    few_flop: float = 0.0
    """Of the FLOPs of a product with narrow weights, those of the first `FEW_ROWS` rows."""

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
    """A device as the roofline sees it: walls and a floor for each kind of operator."""

    walls: Mapping[str, Walls]
    """By kind of operator: all of `LAWS`."""
    link_byte_s: float
    """Traffic to another device; infinite where there is only one."""
    host_byte_s: float
    """Traffic from the host; infinite where memory is shared with it."""
    few_flop_s: float = math.inf
    """Arithmetic reached by products of a few rows with narrow weights; infinite: memory alone bounds them."""

    def time_s(self, work: Work) -> float:
        """The time alone, for searches that ask for it a million times."""
        if work.host_s:
            return work.host_s
        flop_s, byte_s, floor_s = self.walls[work.law or work.kind]
        wall = max(work.flop / flop_s, (work.weight_byte + work.activation_byte + work.kv_byte) / byte_s)
        if work.few_flop:
            wall = max(wall, work.few_flop / self.few_flop_s)
        wall /= work.shards
        if work.link_byte or work.host_byte:
            wall = max(wall, work.link_byte / self.link_byte_s + work.host_byte / self.host_byte_s)
        return wall + work.kernels * floor_s

    def run(self, work: Work) -> Operator:
        """The operator with its time: the longest of its walls (survey, eq. 10), and the floor of its kernels."""
        if work.host_s:
            return Operator(work, work.host_s, "host")
        flop_s, byte_s, floor_s = self.walls[work.law or work.kind]
        compute = max(work.flop / flop_s, work.few_flop / self.few_flop_s) / work.shards
        memory = work.byte / byte_s / work.shards
        floor = work.kernels * floor_s
        wall, bound = (compute, "compute") if compute >= memory else (memory, "memory")
        if work.link_byte or work.host_byte:
            link = work.link_byte / self.link_byte_s + work.host_byte / self.host_byte_s
            wall, bound = (link, "communication") if link > wall else (wall, bound)
        return Operator(work, wall + floor, cast("Bound", "launch" if floor > wall else bound))


def waiting(device_s: float, floor_s: float) -> list[Operator]:
    """What a pass waits for the host, which starts kernels in `floor_s`, beside the device's own time."""
    if floor_s <= device_s:
        return []
    return [Operator(Work("host.launches", "host", host_s=floor_s - device_s), floor_s - device_s, "host")]
