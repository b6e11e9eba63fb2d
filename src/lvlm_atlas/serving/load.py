"""What a run comes to: latencies, goodput, use of the devices, energy and cost (survey, table 5 and eqs. 7 to 9)."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import le

from lvlm_atlas.fault import AtlasError, suggestion
from lvlm_atlas.serving.simulation import Run

LIMITED = ("ttft", "tpot", "total")
"""What a service-level objective may limit."""
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """A latency over all requests, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class PoolUse:
    """What a pool's instances were busy with: shares of the time of all of them."""

    name: str
    stages: str
    instances: int
    encoding: float
    prefilling: float
    decoding: float
    cache_peak: float
    """Share of the room for caches that was in use at most, of the fullest instance."""

    @property
    def busy(self) -> float:
        """Share of the time in steps."""
        return self.encoding + self.prefilling + self.decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A server under a load. All is predicted."""

    requests: int
    duration_s: float
    """From the first arrival to the last token."""
    ttft: Percentiles
    tpot: Percentiles
    total: Percentiles
    output_tokens: int
    slo: Mapping[str, float]
    attained: int
    """Requests within the objective."""
    pools: tuple[PoolUse, ...]
    devices: int
    tdp_w: float | None
    price_usd_h: float | None
    preemptions: int
    link_byte: float
    embedding_hits: float | None
    """Share of the images that were asked for by name and whose embeddings were there."""
    present: float
    """Requests in the system on average."""
    saturated: bool
    """Whether requests left markedly slower than they came, so that the queue grew for as long as they did."""
    assumptions: tuple[str, ...] = field(default=())

    @property
    def requests_s(self) -> float:
        """Requests answered a second."""
        return self.requests / self.duration_s if self.duration_s else 0.0

    @property
    def tokens_s(self) -> float:
        """Tokens generated a second."""
        return self.output_tokens / self.duration_s if self.duration_s else 0.0

    @property
    def attainment(self) -> float:
        """Share of the requests within the objective (survey, eq. 7)."""
        return self.attained / self.requests

    @property
    def goodput(self) -> float:
        """Requests within the objective a second (survey, eq. 8)."""
        return self.attained / self.duration_s if self.duration_s else 0.0

    @property
    def cost_usd(self) -> float | None:
        """Price of all devices over the run for each request within the objective; None without a price or such."""
        if self.price_usd_h is None or not self.attained:
            return None
        return self.devices * self.price_usd_h * self.duration_s / 3600 / self.attained

    @property
    def energy_j_token(self) -> float | None:
        """Energy of all devices at their thermal design power over the run, for each token (survey, eq. 9)."""
        return None if self.tdp_w is None else self.devices * self.tdp_w * self.duration_s / self.output_tokens


def objective(limits: Mapping[str, float]) -> dict[str, float]:
    """A service-level objective, checked.

    Raises:
        AtlasError: it limits what a server's requests have none of.
    """
    for name in limits:
        if name not in LIMITED:
            raise AtlasError(f"--slo {name}: a server's requests have no such limit; {suggestion(name, LIMITED)}")
    return dict(limits)


def load(
    run: Run, *, slo: Mapping[str, float], devices: int, tdp_w: float | None = None, price_usd_h: float | None = None,
    assumptions: tuple[str, ...] = (),
) -> Load:  # fmt: skip
    """What a run comes to.

    Args:
        run: the run.
        slo: limits in seconds, by `ttft`, `tpot` and `total`; a request must keep all of them.
        devices: devices of the server.
        tdp_w: thermal design power of each.
        price_usd_h: price of each for an hour.
        assumptions: what was taken for granted.
    """
    tally, cluster = run.tally, run.cluster
    duration = tally.last_s - tally.first_s
    times = {"ttft": tally.ttft_s, "tpot": tally.tpot_s, "total": tally.total_s}
    rows = zip(*(times[name] for name in slo), strict=True)
    attained = sum(all(map(le, row, slo.values())) for row in rows)
    stores = cluster.embeddings.values()
    asked = sum(each.hits + each.misses for each in stores)
    return Load(
        requests=tally.came, duration_s=duration, ttft=percentiles(tally.ttft_s), tpot=percentiles(tally.tpot_s),
        total=percentiles(tally.total_s), output_tokens=sum(tally.output), slo=dict(slo),
        attained=attained if slo else tally.came, pools=tuple(_use(run)), devices=devices, tdp_w=tdp_w,
        price_usd_h=price_usd_h, preemptions=tally.preemptions, link_byte=tally.link_byte,
        embedding_hits=sum(each.hits for each in stores) / asked if asked else None,
        present=tally.present_s / duration if duration else 0.0, saturated=_saturated(run), assumptions=assumptions,
    )  # fmt: skip


def percentiles(numbers: array[float]) -> Percentiles:
    """Percentiles of numbers, each the least that so many per cent do not exceed."""
    ordered = sorted(numbers)
    at = [ordered[max(0, -(-len(ordered) * each // 100) - 1)] for each in PERCENTILES]
    return Percentiles(sum(ordered) / len(ordered), *at)


def _use(run: Run) -> list[PoolUse]:
    used = []
    for pool, instances in zip(run.cluster.policy.pools, run.cluster.pools, strict=True):
        index, last = run.cluster.policy.pools.index(pool), run.tally.last_s
        since = [last - max(each.joined_s, run.tally.first_s) for each in instances]
        time = (sum(since) + run.cluster.past_s[index]) or 1.0
        past = run.cluster.past_busy_s[index]
        sums = {stage: (past[stage] + sum(each.busy_s[stage] for each in instances)) / time for stage in past}
        peak = max(each.memory.peak / each.memory.room for each in instances)
        used.append(PoolUse(pool.name, pool.letters, len(instances), **sums, cache_peak=peak))
    return used


BACKLOG = 0.1
"""Share of the time of arrivals that the last request may take on top of a usual one before a server counts as
overrun."""


def _saturated(run: Run) -> bool:
    """Whether the requests of the second half waited markedly longer than those of the first, and longer than a tenth
    of the time in which they came.
    """
    tally = run.tally
    came = tally.last_arrival_s - tally.first_s
    half = len(tally.ttft_s) // 2
    if half < 10 or not came:
        return False
    early, late = (sum(part) / len(part) for part in (tally.ttft_s[:half], tally.ttft_s[half:]))
    return late > 2 * early and late > BACKLOG * came
