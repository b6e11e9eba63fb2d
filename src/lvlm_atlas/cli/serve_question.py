"""What `serve-sim` was asked: its options, as servers and as requests that come."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lvlm_atlas.cli.request_options import DeploymentOptions
from lvlm_atlas.fault import AtlasError
from lvlm_atlas.planner.metric import limits
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.serving.lengths import Lengths
from lvlm_atlas.serving.load import objective
from lvlm_atlas.serving.policies import policy, splits
from lvlm_atlas.serving.policy import Policy
from lvlm_atlas.serving.scenario import Scenario, wired
from lvlm_atlas.serving.stacks import Stacks
from lvlm_atlas.serving.trace import read
from lvlm_atlas.serving.traffic import Arrival, Kind, Mix, scaled, synthetic
from lvlm_atlas.specs.request import image

MOST_RATES = 64


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the command was asked; the options by name."""

    model: str
    hardware: str
    rate: str | None
    policies: list[str]
    workloads: list[str] | None
    trace: Path | None
    traffic: str | None
    image_size: str
    stacks: list[str]
    slo: list[str]
    requests: int | None
    seed: int
    burstiness: float
    spread: float
    reuse: float
    concurrency: int | None
    grow: int | None
    capacity: bool
    attain: float
    link_gb_s: float | None
    link_latency_s: float
    host_image_s: float
    host_workers: int
    timeline: Path | None
    deployment: DeploymentOptions


Stream = Callable[[float | None, int | None], Iterable[Arrival]]
REQUESTS = 1000
BEST = "best"
"""In place of sizes: those at which the server keeps its limits at the highest rate."""
MOST_SPLITS = 2000


def traffic(asked: Question, planner: Planner) -> tuple[Sequence[float | None], Stream, list[Workload], str]:
    """The rates, the requests at one of them, the kinds of requests, and a name for all of them."""
    if asked.concurrency and (asked.rate or asked.capacity):
        raise AtlasError("--concurrency: clients send the next request when one is answered; leave --rate out")
    idle = asked.trace or asked.concurrency
    rates: Sequence[float | None] = _rates(asked.rate) if asked.rate else [None if idle else 1.0]
    if asked.capacity and asked.rate:
        raise AtlasError("--capacity finds the rate; leave --rate out")
    if asked.trace:
        if asked.workloads:
            raise AtlasError("--trace says what arrives; leave --workload out")
        if asked.traffic:
            raise AtlasError("--trace and --traffic both say what arrives; leave one out")
        found = read(asked.trace, image_size=asked.image_size)[: asked.requests or None]

        def replay(rate: float | None, _: int | None) -> Iterable[Arrival]:
            if rate is None:
                return found
            return [each._replace(at_s=0.0) for each in found] if math.isinf(rate) else scaled(found, rate)

        kinds = list({(bool(e.workload.images), bool(e.workload.videos)): e.workload for e in found}.values())
        return rates, replay, kinds, asked.trace.name
    if asked.traffic:
        return rates, *_published(asked, planner)
    mix = Mix(
        tuple(_kind(planner, each) for each in asked.workloads or ["single-image-chat"]), spread=asked.spread,
        reuse=asked.reuse, seed=asked.seed,
    )  # fmt: skip
    name = " + ".join(
        f"{kind.share:g} {kind.workload.id}" if len(mix.kinds) > 1 else kind.workload.id for kind in mix.kinds
    )
    return (
        rates,
        lambda rate, number: synthetic(
            mix,
            rate or (math.inf if asked.concurrency else 1.0),
            number or asked.requests or REQUESTS,
            burstiness=asked.burstiness,
        ),
        [kind.workload for kind in mix.kinds],
        name,
    )


def _published(asked: Question, planner: Planner) -> tuple[Stream, list[Workload], str]:
    """Requests of a published distribution, the kinds of them, and its name."""
    if asked.workloads or asked.spread or asked.reuse:
        raise AtlasError("--traffic says what arrives; leave --workload, --spread and --reuse out")
    record = planner.atlas.arriving(asked.traffic or "")
    lengths = Lengths(record, image(asked.image_size, 1), asked.seed)

    def stream(rate: float | None, number: int | None) -> Iterable[Arrival]:
        usual = math.inf if asked.concurrency else 1.0
        return synthetic(lengths, rate or usual, number or asked.requests or REQUESTS, burstiness=asked.burstiness)

    return stream, lengths.kinds(), record.name


def _kind(planner: Planner, text: str) -> Kind:
    """A workload of a mix, from `id@share`."""
    id_, _, part = text.partition("@")
    try:
        weight = float(part) if part else 1.0
    except ValueError:
        raise AtlasError(f"--workload {text}: {part!r} is no share; write such as images-20@0.2") from None
    return Kind(planner.workload(id_.strip()), weight)


def _rates(text: str) -> list[float]:
    """Rates from `4`, `1,2,4` or `1..32`.

    Raises:
        AtlasError: one is no number above 0, or there are too many.
    """
    found: list[float] = []
    for part in text.split(","):
        ends = part.split("..")
        try:
            first, *rest = (float(end) for end in ends)
        except ValueError:
            first, rest = math.nan, []
        last = rest[0] if rest else first
        if len(ends) > 2 or not (0 < first <= last < math.inf):
            raise AtlasError(f"--rate {text}: {part.strip()!r} are no requests a second; write 4, 1,2,4 or 1..32")
        while first < last * (1 - 1e-9) and len(found) <= MOST_RATES:
            found.append(first)
            first *= 2
        found.append(last)
    if len(found) > MOST_RATES:
        raise AtlasError(f"--rate {text}: those are more than {MOST_RATES} rates; give fewer")
    return found


def scenarios(asked: Question, planner: Planner, kinds: list[Workload]) -> Iterator[list[Scenario]]:
    """The servers of each combination of policy and stack: one, or as many as a policy has sizes to be searched.

    Raises:
        AtlasError: a name is unknown, devices and sizes do not agree, or a limit is none.
    """
    model = planner.model(asked.model)
    id_, devices = _devices(asked.hardware)
    device = planner.device(id_)
    setup = asked.deployment.to_deployment(planner, with_limits=asked.deployment.runtime is None)
    if setup.pipeline_parallel > 1:
        raise AtlasError("--pp: an instance of a simulated server shares each layer; give --tp, and leave --pp out")
    wires = wired(
        device, link_gb_s=asked.link_gb_s, latency_s=asked.link_latency_s, host_image_s=asked.host_image_s,
        host_workers=asked.host_workers,
    )  # fmt: skip
    slo = objective(limits(asked.slo))
    for text in asked.policies:
        layouts = _layouts(asked, planner, text, devices, setup.tensor_parallel)
        for stack in asked.stacks:
            plain = stack.strip() == "none"
            chosen = Stacks(None if plain else planner.kb, stack, model, kinds)
            yield [
                Scenario(
                    model=model, device=device, deployment=setup, policy=layout, stack=chosen, labels=chosen.labels,
                    slo=slo, wires=wires, concurrency=asked.concurrency,
                )
                for layout in layouts
            ]  # fmt: skip


def _layouts(asked: Question, planner: Planner, text: str, devices: int | None, each: int) -> list[Policy]:
    """One policy, or a policy in all sizes."""
    name, _, sizes = text.partition(":")
    if sizes.strip() != BEST:
        return [policy(planner.atlas.systems, text, devices, each)]
    if not asked.capacity or devices is None:
        raise AtlasError(
            f"--policy {text}: sizes are searched with --capacity and a number of devices, as in h100-sxm:8"
        )
    found = list(islice(splits(planner.atlas.systems, name.strip(), devices // each), MOST_SPLITS + 1))
    if len(found) > MOST_SPLITS:
        raise AtlasError(
            f"--policy {text}: its pools have more than {MOST_SPLITS:,} sizes; give them, or fewer devices"
        )
    return found


def _devices(text: str) -> tuple[str, int | None]:
    """A device and how many there are, from `h100-sxm:8`."""
    match = re.fullmatch(r"(.+?)(?::(\d{1,6}))?", text.strip(), re.ASCII)
    if not match or (match[2] and not int(match[2])):
        raise AtlasError(f"--hardware {text}: no device; write such as h100-sxm:8")
    return match[1], int(match[2]) if match[2] else None
