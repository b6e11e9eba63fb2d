"""A run: requests of a stream go through a server until the last has left."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.serving.cluster import Cluster
from lvlm_atlas.serving.intake import Intake
from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.prices import Prices
from lvlm_atlas.serving.scaling import scale
from lvlm_atlas.serving.tally import Tally
from lvlm_atlas.serving.traffic import Arrival
from lvlm_atlas.serving.wires import Front, Wires


@dataclass(frozen=True, slots=True)
class Run:
    """What a run has come to."""

    cluster: Cluster
    tally: Tally


def simulate(
    policy: Policy, prices: Prices, stream: Iterable[Arrival], wires: Wires | None = None, *,
    concurrency: int | None = None,
) -> Run:  # fmt: skip
    """Send requests through a server until the last is answered.

    Args:
        policy: how the server is laid out.
        prices: times of batches of one instance.
        stream: the requests, by their time of arrival.
        wires: links and host; None: links take no time, and the host neither.
        concurrency: requests that clients have under way at most; the next is sent when one is answered. None: they
            send them at their time, whatever is under way.

    Raises:
        AtlasError: the extra with simpy is not installed, the stream is empty, or no instance has room for a request.
    """
    try:
        import simpy  # noqa: PLC0415  an extra
    except ImportError as error:
        raise AtlasError(
            "simulating a server needs simpy; install the extra: pip install 'lvlm-atlas[serving]'"
        ) from error
    env = simpy.Environment()
    tally = Tally()
    wires = wires or Wires()
    cluster = Cluster(env, policy, prices, wires, tally)
    intake = Intake(cluster, Front(env, policy, prices, wires))
    env.process(_arrive(intake, stream, concurrency))
    if policy.scaling != "fixed":
        env.process(scale(cluster))
    env.run()
    if not tally.came:
        raise AtlasError("no request arrives; give a trace that holds one, or --requests 1 or more")
    left = len(tally.total_s)
    assert left == tally.came, f"{tally.came} requests came and {left} have left"  # noqa: S101
    return Run(cluster, tally)


def _arrive(intake: Intake, stream: Iterable[Arrival], concurrency: int | None) -> Generator[Any, Any, None]:
    cluster, env = intake.cluster, intake.cluster.env
    for arrival in stream:
        if arrival.at_s > env.now:
            yield env.timeout(arrival.at_s - env.now)
        while concurrency and cluster.tally.present >= concurrency:
            yield cluster.vacancy
        intake.arrive(arrival)
    cluster.coming = False
    cluster.open = cluster.tally.present > 0
