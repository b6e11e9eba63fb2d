"""What a run counts: times of each request that has left, and what the server was busy with."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from lvlm_atlas.serving.batching import Batch
from lvlm_atlas.serving.request import Request

SPANS = 4000
"""Steps that are remembered for a picture."""


class Span(NamedTuple):
    """A step of an instance, or several alike."""

    instance: str
    start_s: float
    end_s: float
    images: int
    prompts: int
    decoding: int


class Tally:
    """Counts of a run. Of each request four numbers are kept, so that percentiles are exact."""

    def __init__(self) -> None:
        self.ttft_s, self.tpot_s, self.total_s = array("d"), array("d"), array("d")
        self.output = array("L")
        self.came = self.preemptions = 0
        self.first_s = self.last_s = self.last_arrival_s = 0.0
        self.link_byte = 0.0
        self.spans: list[Span] = []
        self.requests: list[tuple[float, float, float]] = []
        """Arrival, first token and end of the first requests, for a picture."""
        self.present_s = 0.0
        """Integral of the requests in the system over time."""
        self.present, self._since = 0, 0.0

    def arrived(self, now: float) -> None:
        """A request comes in."""
        if not self.came:
            self.first_s = now
        self.last_arrival_s = now
        self.came += 1
        self._count(now, 1)

    def left(self, request: Request, now: float) -> None:
        """A request is answered."""
        assert request.first_s is not None  # noqa: S101
        tokens = request.shape.output + round(request.generated)
        self.ttft_s.append(request.first_s - request.at_s)
        self.tpot_s.append((now - request.first_s) / (tokens - 1) if tokens > 1 else 0.0)
        self.total_s.append(now - request.at_s)
        self.output.append(tokens)
        self.preemptions += request.preempted
        self.last_s = now
        if len(self.requests) < SPANS:
            self.requests.append((request.at_s, request.first_s, now))
        self._count(now, -1)

    def _count(self, now: float, change: int) -> None:
        self.present_s += self.present * (now - self._since)
        self.present, self._since = self.present + change, now

    def moved(self, byte: float) -> None:
        """Something went over a link."""
        self.link_byte += byte

    def step(self, instance: str, start_s: float, end_s: float, batch: Batch, decoding: int) -> None:
        """An instance has taken a step."""
        if len(self.spans) < SPANS:
            self.spans.append(Span(instance, start_s, end_s, len(batch.images), len(batch.chunks), decoding))
