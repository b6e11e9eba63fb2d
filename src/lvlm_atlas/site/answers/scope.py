"""Which requests the pages answer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from lvlm_atlas.site.content import Content
from lvlm_atlas.site.estimates import REFERENCE

GOALS = ("ttft", "tpot", "total", "memory")
"""Metrics that a page can aim at."""
RISK = "lossy"
"""The largest risk of stacks that a page shows: their techniques are all known to work together."""
MOST = 3
"""Techniques in a stack, as `lvlm-atlas plan` takes them by default."""


@dataclass(frozen=True)
class Scope:
    """Devices and workloads, by id, in the order in which a page offers them: slowest first, least to look at first."""

    devices: tuple[str, ...]
    """Devices that every model is asked about."""
    every_device: tuple[str, ...]
    """Devices that the reference model is asked about."""
    workloads: tuple[str, ...]

    def devices_of(self, model: str) -> tuple[str, ...]:
        """The devices for which a model is answered."""
        return self.every_device if model == REFERENCE.model else self.devices


def scope(content: Content, file: Path) -> Scope:
    """What a file asks for, as far as the atlas has it; all where it has none of it, or is not there."""
    estimates = content.estimates
    chosen = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    by_speed = sorted(estimates.devices.values(), key=lambda device: (device.bandwidth_byte_s, device.id))
    every_device = tuple(device.id for device in by_speed)
    return Scope(
        _wanted(every_device, chosen.get("devices", ())), every_device,
        _wanted(tuple(estimates.workloads), chosen.get("workloads", ())),
    )  # fmt: skip


def _wanted(known: tuple[str, ...], chosen: Collection[str]) -> tuple[str, ...]:
    return tuple(id_ for id_ in known if id_ in chosen) or known
