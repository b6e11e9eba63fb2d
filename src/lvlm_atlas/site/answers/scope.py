"""Which requests the pages answer."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Devices and workloads, by id, in the order in which a page offers them."""

    devices: tuple[str, ...]
    """Devices that every model is asked about."""
    every_device: tuple[str, ...]
    """Devices that the reference model is asked about."""
    workloads: tuple[str, ...]

    def devices_of(self, model: str) -> tuple[str, ...]:
        """The devices for which a model is answered."""
        return self.every_device if model == REFERENCE.model else self.devices


def scope(content: Content, folder: Path) -> Scope:
    """What the folder of the site's sources asks for, as far as the atlas has it."""
    chosen = yaml.safe_load((folder / "answers.yaml").read_text(encoding="utf-8"))
    estimates = content.estimates
    by_speed = sorted(estimates.devices.values(), key=lambda device: (device.bandwidth_byte_s, device.id))
    return Scope(
        tuple(id_ for id_ in chosen["devices"] if id_ in estimates.devices),
        tuple(device.id for device in by_speed),
        tuple(_wanted(chosen["workloads"], content)),
    )


def _wanted(chosen: list[str], content: Content) -> Iterator[str]:
    """The chosen workloads, least to look at first."""
    yield from (id_ for id_ in content.estimates.workloads if id_ in chosen)
