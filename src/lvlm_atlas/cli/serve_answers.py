"""Answers of `serve-sim`: a server at each rate, or at the highest within its limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lvlm_atlas.cli.serve_question import Question, Stream
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.serving.capacity import best
from lvlm_atlas.serving.contract import LoadRow, row
from lvlm_atlas.serving.load import Load
from lvlm_atlas.serving.scenario import Scenario
from lvlm_atlas.serving.simulation import Run


class Answer(NamedTuple):
    """A server under one load."""

    scenario: Scenario
    rate: float | None
    load: Load
    run: Run
    eta_scale: float | None
    """What is left of its attainment at so many times the load and devices; None: not asked."""

    @property
    def row(self) -> LoadRow:
        """As programs read it."""
        return row(self.scenario, self.load, self.rate, self.eta_scale)


def answers(asked: Question, group: list[Scenario], rates: Sequence[float | None], stream: Stream) -> Iterator[Answer]:
    """A server at each rate; of several sizes, the one that keeps its limits at the highest.

    Raises:
        AtlasError: a server cannot hold a request, or a search has no limits.
    """
    if asked.capacity:
        scenario, found = best(group, stream, asked.attain, enough=asked.requests is None)
        yield Answer(scenario, found.rate, found.load, found.run, _eta(asked, scenario, stream, found.rate, found.load))
        return
    (scenario,) = group
    prices = scenario.prices()
    for rate in rates:
        load, run = scenario.run(stream(rate, None), prices)
        yield Answer(scenario, rate, load, run, _eta(asked, scenario, stream, rate, load))


def _eta(asked: Question, scenario: Scenario, stream: Stream, rate: float | None, load: Load) -> float | None:
    """Scaling efficiency (survey, table 5): attainment at so many times the load and devices over that without."""
    factor = asked.grow
    if factor is None or not load.attained:
        return None
    if not scenario.slo:
        raise AtlasError("--grow compares the shares within limits; give some, such as --slo ttft=1s")
    if rate is None and not asked.concurrency:
        raise AtlasError("--grow asks for so many times the rate; give --rate too")
    many = math.inf if rate is None else factor * rate
    grown, _ = scenario.grown(factor).run(stream(many, factor * load.requests))
    return grown.attainment / load.attainment
