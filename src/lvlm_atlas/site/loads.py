"""Servers under load for the pages: each layout at one load, load curves with and without techniques, and what sources
compared. Simulations of an earlier build of the same are taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from markupsafe import Markup

from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.roofline.units import number
from lvlm_atlas.schema.system import Replay, System
from lvlm_atlas.serving.policies import PLAIN, policies
from lvlm_atlas.site.answers.kept import kept
from lvlm_atlas.site.markup import code
from lvlm_atlas.site.simulations import CHAT, DEVICE, MANY, MODEL, Simulations

METRICS = {
    "ttft-mean": "Mean time to the first token", "ttft-p50": "Median time to the first token",
    "tpot-mean": "Mean time per token", "throughput": "Requests a second", "goodput": "Goodput",
}  # fmt: skip


@dataclass(frozen=True)
class LayoutRow:
    """A layout at the load that all are compared at."""

    system: System
    name: str
    sizes: str
    """Of its pools, joined by commas."""
    cells: tuple[str, ...]
    """Latencies, goodput, use, and bytes that a request moves."""

    @property
    def policy(self) -> Markup:
        """The layout with its sizes, as `serve-sim` takes it."""
        return code(f"{self.name}:{self.sizes}")


@dataclass(frozen=True)
class SizeRow:
    """A server of so many devices at the highest rate that it bears."""

    devices: int
    each: int
    """Devices of an instance."""
    cells: tuple[str, ...]
    """The rate, a device's part of it, latencies, and energy a token."""


@dataclass(frozen=True)
class ReplayRow:
    """A published comparison and ours, as pages show them."""

    record: Replay
    ours: str

    @property
    def metric(self) -> str:
        """What was compared."""
        return METRICS[self.record.metric]

    @property
    def reported(self) -> str:
        """What the source says."""
        return f"{number(self.record.times)} ×"

    @property
    def policy(self) -> Markup:
        """The system, as `serve-sim` takes it."""
        return code(self.record.policy)

    @property
    def baseline(self) -> Markup:
        """What it was held against."""
        return code(self.record.baseline)


@dataclass(frozen=True)
class Curve:
    """A latency over the rate of requests, for one stack."""

    label: str
    points: tuple[tuple[float, float], ...]
    """Rates, and the 90th percentile of the time from arrival to the last token."""


@dataclass(frozen=True)
class Loads:
    """Simulations over the records of a knowledge base, as pages show them."""

    kb: KnowledgeBase

    @property
    def possible(self) -> bool:
        """Whether there is all that they need: the records of the question, and the extra."""
        atlas = self.kb.atlas
        named = MODEL in atlas.models and DEVICE in atlas.hardware and {MANY, CHAT} <= atlas.workloads.keys()
        return named and PLAIN in policies(atlas.systems) and find_spec("simpy") is not None

    @cached_property
    def _rows(self) -> Any:
        return kept("loads", self.kb.atlas.root, Simulations(self.kb).rows)

    @cached_property
    def layouts(self) -> tuple[LayoutRow, ...]:
        """Every layout of the catalog at one load, the plain one first."""
        systems = {name: system for name, (system, _) in policies(self.kb.atlas.systems).items()}
        return tuple(LayoutRow(systems[name], name, sizes, cells) for name, sizes, cells in self._rows["layouts"])

    def layout(self, name: str) -> LayoutRow | None:
        """A layout's row; none without what that needs."""
        return next((row for row in self.layouts if row.name == name), None) if self.possible else None

    @cached_property
    def sizes(self) -> tuple[SizeRow, ...]:
        """One device and several at the highest rate within limits, one image a request."""
        return tuple(SizeRow(*row) for row in self._rows["sizes"])

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """Load curves of the plain server without techniques, and with those of a plan's front."""
        return tuple(Curve(label, points) for label, points in self._rows["curves"])

    @property
    def compared(self) -> tuple[System, ...]:
        """Systems with comparisons that sources published."""
        return tuple(system for system in self.kb.atlas.systems.values() if system.replays)

    def replays(self, system: System) -> tuple[ReplayRow, ...]:
        """What sources compared of a system, and what comes out here; none without what that needs."""
        rows = self._rows["replays"][system.id] if self.possible else ()
        return tuple(ReplayRow(record, ours) for record, ours in zip(system.replays, rows, strict=bool(rows)))
