"""What arrives: a mix of workloads at a rate, or what a trace file holds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple, Protocol

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.serving.arrivals import arrivals


class Arrival(NamedTuple):
    """One request as it reaches the server."""

    at_s: float
    workload: Workload
    images: tuple[str, ...] = ()
    """What each image or video shows, as a name for its content; empty: none was seen before."""
    prefix: tuple[tuple[str, int], ...] = ()
    """Stretches of text in front of the images that other requests may share: a name for each, and its tokens."""


class Kind(NamedTuple):
    """A workload of a mix."""

    workload: Workload
    share: float
    """Its share of the requests."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Workloads by their shares of the requests.

    Raises:
        AtlasError: there is none, a share is no positive number, or a workload has several turns.
    """

    kinds: tuple[Kind, ...]
    spread: float = 0.0
    """Coefficient of variation of text and answers: lengths are gamma distributed around those of the workload."""
    reuse: float = 0.0
    """Share of the images that an earlier request brought already."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.kinds:
            raise AtlasError("the mix has no workload; give one, such as single-image-chat")
        for kind in self.kinds:
            if not 0 < kind.share < float("inf"):
                raise AtlasError(f"the share of {kind.workload.id} is {kind.share!r}; give a number above 0")
            if kind.workload.turns > 1:
                raise AtlasError(
                    f"{kind.workload.id} has {kind.workload.turns} turns, and a request that arrives has one; "
                    "replace them, as in multi-turn:turns=1, or give a trace whose requests share prefixes"
                )
        if not 0 <= self.spread <= 10:
            raise AtlasError(f"spread is {self.spread!r}; give a coefficient of variation from 0 to 10")
        if not 0 <= self.reuse <= 1:
            raise AtlasError(f"reuse is {self.reuse!r}; give a share from 0 to 1")

    def draws(self) -> Iterator[Arrival]:
        """Requests without end, their times still open. The same seed gives the same ones."""
        source = random.Random(f"mix {self.seed}")  # noqa: S311
        kinds = [each.workload for each in self.kinds]
        weights = [each.share for each in self.kinds]
        seen = 0
        while True:
            workload = replace(kinds[0] if len(kinds) == 1 else source.choices(kinds, weights)[0], batch=1)
            if self.spread:
                least = 0 if visuals(workload) else 1
                workload = replace(
                    workload, text_tokens=_around(source, workload.text_tokens, self.spread, least),
                    output_tokens=_around(source, workload.output_tokens, self.spread, 1),
                )  # fmt: skip
            contents = []
            if self.reuse:
                for _ in range(visuals(workload)):
                    old = seen and source.random() < self.reuse
                    contents.append(str(source.randrange(seen) if old else seen))
                    seen += not old
            yield Arrival(0.0, workload, tuple(contents))


def visuals(workload: Workload) -> int:
    """Images and videos of a request."""
    return sum(each.count for each in workload.images) + len(workload.videos)


def _around(source: random.Random, mean: int, spread: float, least: int) -> int:
    """A length around a mean."""
    shape = 1 / spread**2
    return max(least, round(source.gammavariate(shape, mean / shape))) if mean else mean


class Draws(Protocol):
    """What requests are drawn from."""

    @property
    def seed(self) -> int:
        """The same seed brings the same ones."""

    def draws(self) -> Iterator[Arrival]:
        """Requests without end, their times still open."""


def synthetic(mix: Draws, rate: float, number: int, *, burstiness: float = 1.0) -> Iterator[Arrival]:
    """So many requests of a mix or a published distribution at a rate.

    The same seed brings the same requests in the same pattern at any rate.

    Raises:
        AtlasError: as of `arrivals`.
    """
    times = arrivals(rate, burstiness=burstiness, seed=mix.seed)
    return (drawn._replace(at_s=at_s) for at_s, drawn in islice(zip(times, mix.draws(), strict=False), number))


def scaled(recorded: Sequence[Arrival], rate: float) -> Iterator[Arrival]:
    """A trace played faster or slower, so that its requests come at a rate on average.

    Raises:
        AtlasError: all its requests arrive at once, so that it has no rate.
    """
    if not rate > 0:
        raise AtlasError(f"the rate is {rate!r}; give requests a second, above 0")
    span = recorded[-1].at_s - recorded[0].at_s
    if not span:
        raise AtlasError("the trace has no duration, so that it cannot be played at another rate; leave --rate out")
    factor = (len(recorded) - 1) / span / rate
    start = recorded[0].at_s
    return (each._replace(at_s=(each.at_s - start) * factor) for each in recorded)


def ordered(recorded: Iterable[Arrival]) -> list[Arrival]:
    """The requests of a trace by their time of arrival, the first at 0."""
    found = sorted(recorded, key=lambda each: each.at_s)
    return [each._replace(at_s=each.at_s - found[0].at_s) for each in found]
