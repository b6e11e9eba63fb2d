"""Servers under load for the pages: each layout at one load, load curves with and without techniques, and what sources
compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec

from markupsafe import Markup

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.roofline.units import number, seconds, share
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.system import Replay, System
from lvlm_atlas.serving.capacity import capacity
from lvlm_atlas.serving.load import Load
from lvlm_atlas.serving.policies import PLAIN, policies, policy
from lvlm_atlas.serving.replay import NEAR, replay
from lvlm_atlas.serving.scenario import Scenario, wired
from lvlm_atlas.serving.stacks import Stacks
from lvlm_atlas.serving.traffic import Arrival, Kind, Mix, synthetic
from lvlm_atlas.site.markup import code

MODEL, DEVICE, DEVICES = "qwen2.5-vl-7b", "h100-sxm", 8
MANY, CHAT = "images-20", "single-image-chat"
IMAGES, SHARE = 8, 0.3
"""Of the requests that are compared, this share has so many images, the others one."""
RATE, REQUESTS = 16.0, 240
RATES = (8.0, 16.0, 24.0, 32.0, 48.0)
SLO = {"ttft": 4.0, "tpot": 0.05}
FRONT = 2
"""Stacks of the plan's front whose curves are drawn."""
SIZES = ((1, 1), (8, 1), (8, 4))
"""Devices of a server, and of an instance of it, whose capacities are compared."""
LIMITS, ASKED = {"ttft": 1.0, "tpot": 0.05}, 200
"""What they keep for nine of ten requests, and how many are sent for each device."""


@dataclass(frozen=True)
class LayoutRow:
    """A layout at the load that all are compared at."""

    system: System
    name: str
    policy: Markup
    """With the sizes of its pools."""
    load: Load

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows: latencies, goodput, use, and bytes that a request moves."""
        load = self.load
        busiest = max(load.pools, key=lambda pool: pool.busy)
        moved = load.link_byte / load.requests
        return (
            seconds(load.ttft.p50), seconds(load.ttft.p99), seconds(load.tpot.p50), seconds(load.tpot.p99),
            share(load.attainment), number(load.goodput), f"{busiest.stages} {share(busiest.busy)}",
            f"{moved / 1e6:,.0f} MB" if moved else "none",
        )  # fmt: skip


@dataclass(frozen=True)
class SizeRow:
    """A server of so many devices at the highest rate that it bears."""

    devices: int
    each: int
    """Devices of an instance."""
    rate: float
    """Requests a second; 0: none is within the limits."""
    load: Load

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows: the rate, a device's part of it, latencies, and energy a token."""
        load = self.load
        energy = load.energy_j_token
        return (
            number(self.rate), number(self.rate / self.devices), seconds(load.ttft.p50), seconds(load.ttft.p99),
            seconds(load.tpot.p50), seconds(load.tpot.p99), "unknown" if energy is None else f"{number(energy)} J",
        )  # fmt: skip


@dataclass(frozen=True)
class ReplayRow:
    """A published comparison and ours, as pages show them."""

    record: Replay
    metric: str
    reported: str
    ours: str

    @property
    def policy(self) -> Markup:
        """The system, as `serve-sim` takes it."""
        return code(self.record.policy)

    @property
    def baseline(self) -> Markup:
        """What it was held against."""
        return code(self.record.baseline)


@dataclass(frozen=True)
class Curve:
    """A latency over the rate of requests, for one stack."""

    label: str
    points: tuple[tuple[float, float], ...]
    """Rates, and the 90th percentile of the time from arrival to the last token."""


METRICS = {
    "ttft-mean": "Mean time to the first token", "ttft-p50": "Median time to the first token",
    "tpot-mean": "Mean time per token", "throughput": "Requests a second", "goodput": "Goodput",
}  # fmt: skip


def load_asked() -> dict[str, str]:
    """The load that layouts are compared at, and what servers of several sizes keep, in words."""
    return {
        "rate": f"{RATE:g}", "requests": str(REQUESTS), "images": str(IMAGES), "share": f"{100 * SHARE:.0f} %",
        "ttft": seconds(SLO["ttft"]), "tpot": seconds(SLO["tpot"]), "devices": str(DEVICES),
        "first": seconds(LIMITS["ttft"]), "further": seconds(LIMITS["tpot"]), "sent": str(ASKED),
    }  # fmt: skip


def _flow(mix: Mix, devices: int, rate: float, _: int | None) -> Iterator[Arrival]:
    """As many requests for each device, whatever their number."""
    return synthetic(mix, rate, ASKED * devices)


@dataclass(frozen=True)
class Loads:
    """Simulations over the records of a knowledge base."""

    kb: KnowledgeBase

    @property
    def possible(self) -> bool:
        """Whether there is all that they need: the records of the question, and the extra."""
        atlas = self.kb.atlas
        named = MODEL in atlas.models and DEVICE in atlas.hardware and {MANY, CHAT} <= atlas.workloads.keys()
        return named and PLAIN in policies(atlas.systems) and find_spec("simpy") is not None

    @cached_property
    def planner(self) -> Planner:
        """The catalog with the engine."""
        return Planner(kb=self.kb)

    @cached_property
    def deployment(self) -> Deployment:
        """Software as it is."""
        return self.planner.paced(Deployment(), efficiency=TYPICAL.name)

    @cached_property
    def mix(self) -> Mix:
        """What arrives."""
        many = self.planner.request(MANY, images=IMAGES)
        return Mix((Kind(self.planner.workload(CHAT), 1 - SHARE), Kind(many, SHARE)), spread=0.5)

    def _scenario(self, name: str, stack: str = "none", kinds: tuple[Workload, ...] = ()) -> Scenario:
        model, device = self.planner.model(MODEL), self.planner.device(DEVICE)
        chosen = Stacks(None if stack == "none" else self.kb, stack, model, kinds)
        return Scenario(
            model=model, device=device, deployment=self.deployment, stack=chosen, labels=chosen.labels, slo=dict(SLO),
            policy=policy(self.kb.atlas.systems, name, DEVICES),
            wires=wired(device),
        )  # fmt: skip

    @cached_property
    def layouts(self) -> tuple[LayoutRow, ...]:
        """Every layout of the catalog at one load, the plain one first."""
        found = []
        for name, (system, _) in sorted(policies(self.kb.atlas.systems).items(), key=lambda item: item[0] != PLAIN):
            scenario = self._scenario(name)
            load, _ = scenario.run(synthetic(self.mix, RATE, REQUESTS))
            sizes = ",".join(str(pool.instances) for pool in scenario.policy.pools)
            found.append(LayoutRow(system, name, code(f"{name}:{sizes}"), load))
        return tuple(found)

    def layout(self, name: str) -> LayoutRow | None:
        """A layout's row; none without what that needs."""
        return next((row for row in self.layouts if row.name == name), None) if self.possible else None

    @cached_property
    def sizes(self) -> tuple[SizeRow, ...]:
        """One device and several at the highest rate within limits, one image a request."""
        model, device = self.planner.model(MODEL), self.planner.device(DEVICE)
        mix = Mix((Kind(self.planner.workload(CHAT), 1.0),))
        found = []
        for devices, each in SIZES:
            scenario = Scenario(
                model=model, device=device, deployment=replace(self.deployment, tensor_parallel=each),
                slo=dict(LIMITS), policy=policy(self.kb.atlas.systems, PLAIN, devices, each), wires=wired(device),
            )  # fmt: skip
            best = capacity(scenario, partial(_flow, mix, devices), enough=False, within=NEAR)
            if best is not None:
                found.append(SizeRow(devices, each, best.rate, best.load))
        return tuple(found)

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """Load curves of the plain server without techniques, and with those of a plan's front."""
        kinds = tuple(kind.workload for kind in self.mix.kinds)
        best = self.planner.plan(
            MODEL,
            DEVICE,
            kinds[0],
            goal="total",
            max_techniques=2,
            training="none",
            risk="reported",
            deployment=self.deployment,
        )
        stacks = ["none", *(option.label.replace(" + ", "+") for option in best.front[:FRONT])]
        drawn = []
        for stack in stacks:
            scenario = self._scenario(PLAIN, stack, kinds)
            prices = scenario.prices()
            loads = [(rate, scenario.run(synthetic(self.mix, rate, REQUESTS), prices)[0]) for rate in RATES]
            label = " + ".join(scenario.labels) or "no technique"
            drawn.append(Curve(label, tuple((rate, load.total.p90) for rate, load in loads)))
        return tuple(drawn)

    @property
    def compared(self) -> tuple[System, ...]:
        """Systems with comparisons that sources published."""
        return tuple(system for system in self.kb.atlas.systems.values() if system.replays)

    def replays(self, system: System) -> tuple[ReplayRow, ...]:
        """What sources compared of a system, and what comes out here; none without what that needs."""
        return tuple(self._replayed(each) for each in system.replays) if self.possible else ()

    def _replayed(self, record: Replay) -> ReplayRow:
        deployment = replace(
            self.deployment, tensor_parallel=record.tensor_parallel, weight_dtype=record.weight_dtype,
            activation_dtype=record.activation_dtype, kv_dtype=record.kv_dtype,
        )  # fmt: skip
        planner = self.planner
        try:
            found = replay(
                self.kb.atlas.systems, record, planner.model(record.model), planner.device(record.hardware), deployment,
                self.kb.atlas.traffic,
            )  # fmt: skip
        except AtlasError as error:
            return ReplayRow(record, METRICS[record.metric], f"{number(record.times)} ×", f"refused: {error}")
        shown = seconds if record.metric.startswith(("ttft", "tpot")) else number
        ours = f"{number(found.times)} × ({shown(found.before)} → {shown(found.after)})"
        return ReplayRow(record, METRICS[record.metric], f"{number(record.times)} ×", ours)
