"""What a plan can aim at, and the limits it can be held to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.roofline import units
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.estimate import Estimate


@dataclass(frozen=True)
class Metric:
    """One figure of an estimate; of what is compared, less is better."""

    name: str
    """As users write it."""
    field: str
    """What decides it in `roofline.costs.Cost`: the figure itself, or one in proportion to it."""
    unit: str
    """Unit in which limits are given."""
    scale: float = 1.0
    """The engine's unit in this one."""
    more: bool = False
    """Whether people want more of it. What is compared is then its inverse, and limits cannot be given."""

    def of(self, estimate: Estimate) -> float:
        """Its value, in its unit."""
        numbers = {
            "ttft": estimate.ttft_s, "tpot": estimate.tpot_s, "total": estimate.total_s,
            "memory": estimate.memory.device_byte,
            "cost": estimate.cost_usd, "energy": estimate.energy_j,
            "concurrency": estimate.request_share, "throughput": estimate.total_s / estimate.workload.batch,
        }  # fmt: skip
        number = numbers[self.name]
        assert number is not None  # noqa: S101  `metric` refuses what the estimate lacks
        return number * self.scale

    def shown(self, value: float) -> str:
        """A value with its unit, to three digits."""
        if self.more:
            each = 1 / value if value else math.inf
            return f"{math.floor(each):,}" if self.name == "concurrency" and math.isfinite(each) else units.number(each)
        if self.unit == "s":
            return units.seconds(value)
        return f"{units.number(value)} {self.unit}"


METRICS: Mapping[str, Metric] = {
    each.name: each
    for each in (
        Metric("ttft", "ttft_s", "s"),
        Metric("tpot", "tpot_s", "s"),
        Metric("total", "total_s", "s"),
        Metric("memory", "device_byte", "GB", 1e-9),
        Metric("cost", "total_s", "USD"),
        Metric("energy", "total_s", "J"),
        Metric("concurrency", "request_share", "requests at once", more=True),
        Metric("throughput", "total_s", "requests/s", more=True),
    )
}
"""Metrics by name: times to the first token, per further token and in total; memory of a device; cost; energy; requests
whose caches a device holds at once, and those of a batch as it is that are answered a second."""


def metric(name: str, device: Device, deployment: Deployment, *, output: int = 2) -> Metric:
    """The metric of that name, if the request and its deployment have it.

    Raises:
        AtlasError: there is none, or a price, a power or a second token is missing.
    """
    if name not in METRICS:
        raise AtlasError(f"no metric {name!r}; {suggestion(name, METRICS)}")
    if name == "cost" and not deployment.price_usd_h:
        raise AtlasError("cost needs the price of a device; give it in USD an hour, such as --price 2.5")
    if name == "energy" and device.tdp_w is None:
        raise AtlasError(f"energy needs a thermal design power, and {device.name} has none; take another goal")
    if name == "tpot" and output < 2:
        raise AtlasError("tpot needs a second token; give --output 2 or more")
    return METRICS[name]


def limits(texts: Sequence[str]) -> dict[str, float]:
    """Limits from `metric=number`, in the metrics' units, or with a unit, as in `ttft=500ms`.

    Raises:
        AtlasError: that is no limit, or it is given twice.
    """
    limits_: dict[str, float] = {}
    for text in texts:
        name, equals, number = (part.strip() for part in text.partition("="))
        if not equals:
            raise AtlasError(f"--slo {text}: no limit; write metric=number, such as ttft=0.5")
        if name not in METRICS:
            raise AtlasError(f"--slo {text}: no metric {name!r}; {suggestion(name, METRICS)}")
        if METRICS[name].more:
            raise AtlasError(f"--slo {text}: {name} takes no limit; limit ttft, tpot, total or memory at a --batch")
        if name in limits_:
            raise AtlasError(f"--slo {text}: {name} has a limit already; leave one out")
        limits_[name] = _quantity(text, number, METRICS[name].unit)
    return limits_


_UNITS: Mapping[str, Mapping[str, float]] = {
    "s": {"s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60},
    "GB": {"GB": 1, "MB": 1e-3, "TB": 1e3, "GiB": 2**30 / 1e9},
    "USD": {"USD": 1},
    "J": {"J": 1, "kJ": 1e3},
}
"""What may stand behind a limit, by the metric's own unit, and how many of that it is."""


def _quantity(text: str, number: str, unit: str) -> float:
    """A number in a metric's unit; `text` is the limit that it stands in."""
    spelled = re.fullmatch(r"(\S*[\d.])\s*([^\d.\s]+)", number)
    digits, factor = (spelled[1], _UNITS[unit].get(spelled[2])) if spelled else (number, 1)
    with suppress(ValueError):
        if factor is not None:
            return float(digits) * factor
    others = ", ".join(name for name in _UNITS[unit] if name != unit)
    hint = f", or with one of {others} behind it" if others else ""
    raise AtlasError(f"--slo {text}: {number!r} is no number; give {unit}{hint}")


LIMITS = (1e-12, 1e15)
"""The least and the most that a limit may be, in the unit of its metric."""


def checked_limit(name: str, limit: float) -> float:
    """A limit of a metric.

    Raises:
        AtlasError: it is no number in `LIMITS`, or the metric takes none.
    """
    if METRICS[name].more:
        raise AtlasError(f"limit {name}={limit}: {name} takes no limit; limit ttft, tpot, total or memory")
    least, most = LIMITS
    if not (isinstance(limit, int | float) and least <= limit <= most):
        raise AtlasError(f"limit {name}={limit}: give a number of {METRICS[name].unit} from {least:g} to {most:g}")
    return limit
