"""The highest rate at which a server keeps its objective, found in few runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.serving.load import Load
from lvlm_atlas.serving.scenario import Scenario
from lvlm_atlas.serving.simulation import Run
from lvlm_atlas.serving.traffic import Arrival

WITHIN = 0.02
"""How near to the capacity the rate is that is found, as a share of it."""
RUNS = 24
"""Runs that a search takes at most."""


class Capacity(NamedTuple):
    """What a search has found."""

    rate: float
    """The highest rate tried that keeps the objective; 0: none did."""
    load: Load
    """The server at that rate, or at the lowest tried."""
    run: Run
    runs: int


def capacity(scenario: Scenario, stream: Callable[[float], Iterable[Arrival]], attain: float = 0.9) -> Capacity:
    """The highest rate at which so many of the requests are within the objective.

    It lies below the rate at which requests leave when all come at once, or little above. The same requests come in the
    same pattern at every rate, so that rates differ by nothing else.

    Args:
        scenario: the server and its objective.
        stream: the requests at a rate; infinite: all at once.
        attain: share of the requests that must be within the objective.

    Raises:
        AtlasError: there is no objective, or the share is none.
    """
    if not scenario.slo:
        raise AtlasError(
            "the capacity is the highest rate within limits; give some, such as --slo ttft=1 --slo tpot=0.05"
        )
    if not 0 < attain <= 1:
        raise AtlasError(f"--attain is {attain!r}; give a share above 0, 1 at most")
    prices = scenario.prices()
    flood, _ = scenario.run(stream(math.inf), prices)
    low, high, rate = 0.0, math.inf, flood.requests_s
    best: tuple[Load, Run] | None = None
    last: tuple[Load, Run] | None = None
    runs = 1
    while runs < RUNS and not (low and high - low <= WITHIN * high):
        last = scenario.run(stream(rate), prices)
        runs += 1
        if last[0].attainment >= attain:
            low, best = rate, last
            rate = math.sqrt(rate * high) if math.isfinite(high) else rate * 1.25
        else:
            high = rate
            rate = math.sqrt(low * high) if low else high / 2
        if not low and high < 1e-3 * flood.requests_s:
            break  # no rate keeps it: a request alone does not
    found = best or last
    assert found is not None  # noqa: S101
    return Capacity(low, *found, runs)
