"""Fits the times of a runtime to published ones: few numbers, each with a meaning, held against what was left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lvlm_atlas.schema.runtime import Runtime
from lvlm_atlas.specs.least_squares import Values, minimised
from lvlm_atlas.specs.runtime import runtime_spec
from lvlm_atlas.specs.timing import Timing

LINK = "link_latency_us"
"""The number that stands at the top of a record."""
LIMITS: Mapping[str, tuple[float, float, float]] = {
    "narrow.compute": (0.01, 0.05, 0.95), "compute": (0.02, 0.5, 0.95), "bandwidth": (0.1, 0.8, 0.92),
    "start_us": (0.3, 3.0, 100.0), "request_ms": (1.0, 10.0, 2e3), "image_ms": (0.5, 10.0, 2e3),
    "megapixel_ms": (1.0, 50.0, 2e3), "step_ms": (0.05, 1.0, 50.0), "prompt_layer_us": (5.0, 500.0, 5e3),
    "layer_us": (5.0, 100.0, 5e3), "encoder_layer_us": (5.0, 100.0, 5e3), LINK: (1.0, 10.0, 200.0),
}  # fmt: skip
"""Least that a fit may give a number, where it starts, and most; the first counts that the number's name ends in. The
start does not depend on the record, and a number that no timing decides stays near it."""
SPREADS: Mapping[str, float] = {"narrow.compute": 1.5, "compute": 0.3, "bandwidth": 0.15, "start_us": 0.7}
"""How far from its start a number may be expected, in logarithms: kernels are known to reach such shares."""
SPREAD = 1.5
"""The same of the others: of a host's times little is known beforehand."""
RIDGE = 2e-5
"""Weight of the distance from the start, in squares of such spreads."""
LAW = ("compute", "bandwidth", "start_us")
"""Numbers of a law."""
HUBER = 0.15
"""Errors beyond this count in proportion, not squared: one odd timing must not bend the rest."""


@dataclass(frozen=True, slots=True)
class Residual:
    """How far a prediction is from a published time."""

    timing: Timing
    predicted_s: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_s / self.timing.value_s


def free(record: Runtime) -> tuple[str, ...]:
    """Paths of the numbers of a record that are fitted: its times, as far as no source gives them."""
    laws = [
        f"kernels.{kind}.{name}"
        for kind, law in record.kernels.items()
        if f"kernels.{kind}" not in record.sources
        for name in LAW
        if getattr(law, name) is not None and f"kernels.{kind}.{name}" not in record.sources
    ]
    host = [
        f"host.{name}" for name, value in record.host.model_dump(exclude={"starts"}).items()
        if value is not None and f"host.{name}" not in record.sources
    ]  # fmt: skip
    link = [LINK] if record.link_latency_us is not None and LINK not in record.sources else []
    return (*sorted(laws), *host, *link)


def placed(record: Runtime, values: Values) -> Runtime:
    """The record with fitted numbers in their places."""
    kernels = {
        kind: law.model_copy(
            update={name: values[path] for name in LAW if (path := f"kernels.{kind}.{name}") in values}
        )
        for kind, law in record.kernels.items()
    }
    own = {path.partition(".")[2]: value for path, value in values.items() if path.startswith("host.")}
    link = {LINK: values[LINK]} if LINK in values else {}
    return record.model_copy(update={"kernels": kernels, "host": record.host.model_copy(update=own), **link})


def residuals(record: Runtime, timings: Iterable[Timing], record_of: Callable[[str], Runtime]) -> list[Residual]:
    """The predictions of a record beside published times."""
    runtime = runtime_spec(record, record_of)
    return [Residual(each, each.predicted_s(runtime)) for each in timings]


def fitted(record: Runtime, timings: Sequence[Timing], record_of: Callable[[str], Runtime]) -> Runtime:
    """The record with its free numbers fitted: each source counts alike, however many times it prints.

    The start does not depend on the record's own numbers.
    """
    paths = free(record)
    limits = {path: next(LIMITS[name] for name in LIMITS if path.endswith(name)) for path in paths}
    spreads = {path: next((SPREADS[name] for name in SPREADS if path.endswith(name)), SPREAD) for path in paths}
    start = {path: begin for path, (_, begin, _) in limits.items()}

    counts: dict[str, int] = defaultdict(int)
    for each in timings:
        counts[each.source] += 1

    def errors(values: Values) -> list[float]:
        found = residuals(placed(record, values), timings, record_of)
        own = [_huber(math.log(each.ratio)) / math.sqrt(counts[each.timing.source] * len(counts)) for each in found]
        return own + [math.sqrt(RIDGE) * math.log(values[path] / start[path]) / spreads[path] for path in paths]

    values = minimised(errors, start, {path: (low, most) for path, (low, _, most) in limits.items()})
    return placed(record, {path: float(f"{value:.3g}") for path, value in values.items()})


def left_out(
    record: Runtime, timings: Sequence[Timing], record_of: Callable[[str], Runtime], group: Callable[[Timing], str]
) -> list[Residual]:
    """Residuals of each group on a fit to all others."""
    groups = dict.fromkeys(map(group, timings))
    found: list[Residual] = []
    for each in groups if len(groups) > 1 else ():
        rest = [timing for timing in timings if group(timing) != each]
        held = [timing for timing in timings if group(timing) == each]
        found += residuals(fitted(record, rest, record_of), held, record_of)
    return found


def median_error(found: Iterable[Residual]) -> float:
    """Median of |predicted over measured - 1|."""
    return median(abs(each.ratio - 1) for each in found)


def _huber(error: float) -> float:
    """An error whose square grows in proportion beyond `HUBER`."""
    size = abs(error)
    return error if size <= HUBER else math.copysign(math.sqrt(HUBER * (2 * size - HUBER)), error)
