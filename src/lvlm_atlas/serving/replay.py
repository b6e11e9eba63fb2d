"""Published comparisons of servers, asked of the simulation in the same setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.device import Device
from lvlm_atlas.roofline.model import Model
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.system import Replay, System
from lvlm_atlas.schema.traffic import Traffic
from lvlm_atlas.serving.capacity import capacity
from lvlm_atlas.serving.lengths import Lengths
from lvlm_atlas.serving.load import Load
from lvlm_atlas.serving.policies import policy
from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.scenario import Scenario, wired
from lvlm_atlas.serving.traffic import Draws, Kind, Mix, synthetic
from lvlm_atlas.specs.request import image

NEAR = 0.1
"""How near to the capacity the rate of a comparison is; sources give whole requests a second."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A published comparison and ours. All of ours is predicted."""

    record: Replay
    times: float
    """How many times better the system is than its baseline, as simulated."""
    before: float
    """The baseline's value: seconds, or requests a second."""
    after: float
    """The system's."""

    @property
    def ratio(self) -> float:
        """Ours over the published one."""
        return self.times / self.record.times


def replay(
    systems: Mapping[str, System], record: Replay, model: Model, device: Device, deployment: Deployment,
    traffic: Mapping[str, Traffic],
) -> Replayed:  # fmt: skip
    """Ask the simulation for a published comparison.

    Args:
        systems: the catalog's systems, by id.
        record: the comparison.
        model: its model.
        device: its device.
        deployment: how one instance runs the model.
        traffic: the catalog's distributions of requests, by id.

    Raises:
        AtlasError: a policy of the comparison is none, or an instance has no room.
    """
    mix = _traffic(record, traffic)
    before, after = (
        _value(record, mix, Scenario(
            model=model, device=device, deployment=deployment, slo=_limits(record),
            policy=_sized(record, policy(systems, name, None, record.tensor_parallel)),
            wires=wired(device), concurrency=record.concurrency,
        ))
        for name in (record.baseline, record.policy)
    )  # fmt: skip
    more = record.metric in ("throughput", "goodput")
    least, most = (before, after) if more else (after, before)
    return Replayed(record, most / least if least else math.inf, before, after)


def _traffic(record: Replay, traffic: Mapping[str, Traffic]) -> Draws:
    """What comes: a published distribution, or as many requests with each number of images."""
    if record.traffic is not None:
        return Lengths(traffic[record.traffic], image(record.image, 1))
    return Mix(
        tuple(
            Kind(
                Workload(
                    id=f"images-{count}", images=(image(record.image, count),) if count else (),
                    text_tokens=record.text_tokens, output_tokens=record.output_tokens,
                ),
                1.0,
            )
            for count in record.images
        )
    )  # fmt: skip


def _sized(record: Replay, plain: Policy) -> Policy:
    """A layout with the sizes of steps and batches that the comparison sets."""
    given = {name: getattr(record, name) for name in ("token_budget", "sequences", "image_batch")}
    return replace(plain, **{name: size for name, size in given.items() if size is not None})


def _limits(record: Replay) -> dict[str, float]:
    given = {"ttft": record.ttft_s, "tpot": record.tpot_s}
    return {name: limit for name, limit in given.items() if limit is not None}


def _value(record: Replay, mix: Draws, scenario: Scenario) -> float:
    if record.metric == "goodput":
        found = capacity(
            scenario, lambda rate, number: synthetic(mix, rate or 1.0, number or record.requests), record.attain,
            enough=False, within=NEAR,
        )  # fmt: skip
        return found.rate if found else 0.0
    load, _ = scenario.run(synthetic(mix, record.rate or math.inf, record.requests))
    return _measured(record, load)


def _measured(record: Replay, load: Load) -> float:
    return {
        "ttft-mean": load.ttft.mean,
        "ttft-p50": load.ttft.p50,
        "tpot-mean": load.tpot.mean,
        "throughput": load.requests_s,
    }[record.metric]
