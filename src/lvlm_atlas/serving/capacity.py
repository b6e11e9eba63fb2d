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
LEAST_S = 60.0
"""Time in which requests come at the least, so that a queue that grows is seen."""
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


Stream = Callable[[float, int | None], Iterable[Arrival]]
"""Requests at a rate, infinite for all at once; how many, None: as the question says."""


def capacity(
    scenario: Scenario,
    stream: Stream,
    attain: float = 0.9,
    *,
    enough: bool = True,
    above: float = 0.0,
    within: float = WITHIN,
) -> Capacity | None:
    """The highest rate at which so many of the requests are within the objective.

    It lies below the rate at which requests leave when all come at once, or little above. The same requests come in the
    same pattern at every rate, so that rates differ by nothing else.

    Args:
        scenario: the server and its objective.
        stream: the requests at a rate.
        attain: share of the requests that must be within the objective.
        enough: whether to send more of them than the question says where they would all come within `LEAST_S`.
        above: a rate that is known to be within reach otherwise; unless this server does too, there is no answer.
        within: how near to the capacity the rate must be, as a share of it.

    Returns:
        What was found; None: it is not above that rate.

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
    flood, _ = scenario.run(stream(math.inf, None), prices)
    number = max(flood.requests, math.ceil(LEAST_S * flood.requests_s)) if enough else None
    low, high, rate = 0.0, math.inf, max(flood.requests_s, above)
    best: tuple[Load, Run] | None = None
    last: tuple[Load, Run] | None = None
    runs = 1
    if above:
        best, low = scenario.run(stream(above, number), prices), above
        runs += 1
        if not _keeps(best[0], attain):
            return None
    while runs < RUNS and not (low and math.isfinite(high) and high - low <= within * high):
        last = scenario.run(stream(rate, number), prices)
        runs += 1
        if _keeps(last[0], attain):
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


def _keeps(load: Load, attain: float) -> bool:
    """Whether enough requests are within the objective, and the queue does not grow."""
    return load.attainment >= attain and not load.saturated


def best(
    scenarios: Iterable[Scenario], stream: Stream, attain: float = 0.9, *, enough: bool = True
) -> tuple[Scenario, Capacity]:
    """The server of some that keeps the objective at the highest rate: those that do not at the best one so far are
    given up after two runs.

    Raises:
        AtlasError: as of `capacity`.
    """
    champion: tuple[Scenario, Capacity] | None = None
    for scenario in scenarios:
        above = champion[1].rate * (1 + WITHIN) if champion else 0.0
        found = capacity(scenario, stream, attain, enough=enough, above=above)
        if found and (champion is None or found.rate > champion[1].rate):
            champion = scenario, found
    assert champion is not None  # noqa: S101
    return champion
