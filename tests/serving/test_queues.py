"""Where the theory of queues has a closed form, the simulation meets it; where it has none, its laws hold."""

from __future__ import annotations

import math
import random

import pytest

from lvlm_atlas.roofline.workload import Image, Workload
from lvlm_atlas.serving.arrivals import arrivals
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.serving.simulation import simulate
from lvlm_atlas.serving.spent import Spent
from lvlm_atlas.serving.traffic import Kind, Mix, synthetic
from servers import D_, E_, P_, server

ONE_IMAGE = Mix((Kind(Workload(images=(Image(336, 336),), text_tokens=8, output_tokens=1), 1),))


class Served(Prices):
    """Prices of which encoding alone takes time: as long as a source of service times says."""

    def __init__(self, real: Prices, times) -> None:
        self.__dict__.update(real.__dict__)
        self.times, self.taken = times, []

    def encode(self, pieces) -> Spent:
        """The next service time, for one image."""
        if not pieces:
            return Spent(0.0)
        (piece,) = pieces
        assert piece.frames == 1
        self.taken.append(next(self.times))
        return Spent(self.taken[-1])

    def step(self, chunks, decoding=None, steps=1.0) -> Spent:
        """Nothing."""
        return Spent(0.0)


def waits_s(prices, times, rate: float, number: int, servers: int = 1) -> tuple[list[float], list[float]]:
    """Times in the system in order of leaving, and the service times, of a queue with so many servers."""
    priced = Served(prices("llava-1.5-7b"), times)
    policy = server(((E_,), servers), ((P_, D_), 1), routing="shared", image_batch=1)
    done = simulate(policy, priced, synthetic(ONE_IMAGE, rate, number)).tally
    return list(done.ttft_s), priced.taken


def exponential(mean: float):
    source = random.Random(5)  # noqa: S311
    return iter(lambda: source.expovariate(1 / mean), None)


@pytest.mark.parametrize(("rate", "servers"), [(1.0, 1), (2.8, 3)])
def test_each_time_follows_from_those_before(prices, rate: float, servers: int) -> None:
    """Lindley's recursion, and that of Kiefer and Wolfowitz for several servers: whatever the times, request by
    request.
    """
    times, service = waits_s(prices, exponential(0.8), rate, 1500, servers)
    free_at, expected = [0.0] * servers, []
    for came, spent in zip(arrivals(rate), service, strict=False):
        start = max(came, free_at[0])
        expected.append((start + spent, start + spent - came))
        free_at = sorted([*free_at[1:], start + spent])
    in_order_of_leaving = [total for _, total in sorted(expected)]
    assert times == pytest.approx(in_order_of_leaving, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "rate", "servers"), [("M/M/1", 0.4, 1), ("M/D/1", 0.6, 1), ("M/G/1", 0.3, 1), ("M/M/3", 1.3, 3)]
)
def test_the_mean_wait_is_that_of_the_closed_form(prices, name: str, rate: float, servers: int) -> None:
    number = 8_000
    source = random.Random(2)  # noqa: S311
    times, squared = {
        "M/M/1": (exponential(1.0), 2.0),
        "M/D/1": (iter(lambda: 1.0, None), 1.0),
        "M/G/1": (iter(lambda: source.choice((0.5, 1.5)), None), 1.25),
        "M/M/3": (exponential(1.0), 2.0),
    }[name]
    found, service = waits_s(prices, times, rate, number, servers)
    if servers == 1:
        expected = rate * squared / (2 * (1 - rate)) + 1  # Pollaczek and Khinchine
    else:
        busy = rate / servers
        waiting = rate**servers / math.factorial(servers) / (1 - busy)
        chance = waiting / (sum(rate**k / math.factorial(k) for k in range(servers)) + waiting)
        expected = chance / (servers - rate) + 1  # Erlang C
    # The sample's own mean service time and rate differ from those asked for by chance alone.
    assert sum(found) / number == pytest.approx(expected, rel=0.02)
    assert sum(service) / number == pytest.approx(1.0, rel=0.02)
