"""The simulations of servers under load that pages show, as rows of texts and numbers that JSON holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.graph.knowledge import KnowledgeBase
from lvlm_atlas.planner.planner import Planner
from lvlm_atlas.roofline.deployment import TYPICAL, Deployment
from lvlm_atlas.roofline.units import number, seconds, share
from lvlm_atlas.roofline.workload import Workload
from lvlm_atlas.schema.system import Replay
from lvlm_atlas.serving.capacity import capacity
from lvlm_atlas.serving.load import Load
from lvlm_atlas.serving.policies import PLAIN, policies, policy
from lvlm_atlas.serving.replay import NEAR, replay
from lvlm_atlas.serving.scenario import Scenario, wired
from lvlm_atlas.serving.stacks import Stacks
from lvlm_atlas.serving.traffic import Arrival, Kind, Mix, synthetic

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
class Simulations:
    """Simulations over the records of a knowledge base."""

    kb: KnowledgeBase

    def rows(self) -> dict[str, Any]:
        """All of them, each run once."""
        replays = {id_: [self._replayed(each) for each in system.replays]
                   for id_, system in self.kb.atlas.systems.items()}  # fmt: skip
        return {
            "layouts": self._layouts(), "sizes": self._sizes(), "curves": self._curves(), "replays": replays,
        }  # fmt: skip

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

    def _layouts(self) -> list[tuple[str, str, list[str]]]:
        """Every layout of the catalog at one load, the plain one first: its name, the sizes of its pools, cells."""
        found = []
        for name in sorted(policies(self.kb.atlas.systems), key=lambda name: name != PLAIN):
            scenario = self._scenario(name)
            load, _ = scenario.run(synthetic(self.mix, RATE, REQUESTS))
            sizes = ",".join(str(pool.instances) for pool in scenario.policy.pools)
            found.append((name, sizes, _of_layout(load)))
        return found

    def _sizes(self) -> list[tuple[int, int, list[str]]]:
        """One device and several at the highest rate within limits, one image a request: devices, those of an instance,
        cells.
        """
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
                found.append((devices, each, _of_size(best.rate, devices, best.load)))
        return found

    def _curves(self) -> list[tuple[str, list[tuple[float, float]]]]:
        """Load curves of the plain server without techniques, and with those of a plan's front: the stack, and for each
        rate the 90th percentile of the time to the last token.
        """
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
            drawn.append((label, [(rate, load.total.p90) for rate, load in loads]))
        return drawn

    def _replayed(self, record: Replay) -> str:
        """What comes out here of what a source compared."""
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
            return f"refused: {error}"
        shown = seconds if record.metric.startswith(("ttft", "tpot")) else number
        return f"{number(found.times)} × ({shown(found.before)} → {shown(found.after)})"


def _of_layout(load: Load) -> list[str]:
    """Latencies, goodput, use, and bytes that a request moves."""
    busiest = max(load.pools, key=lambda pool: pool.busy)
    moved = load.link_byte / load.requests
    return [
        seconds(load.ttft.p50), seconds(load.ttft.p99), seconds(load.tpot.p50), seconds(load.tpot.p99),
        share(load.attainment), number(load.goodput), f"{busiest.stages} {share(busiest.busy)}",
        f"{moved / 1e6:,.0f} MB" if moved else "none",
    ]  # fmt: skip


def _of_size(rate: float, devices: int, load: Load) -> list[str]:
    """The rate, a device's part of it, latencies, and energy a token."""
    energy = load.energy_j_token
    return [
        number(rate), number(rate / devices), seconds(load.ttft.p50), seconds(load.ttft.p99),
        seconds(load.tpot.p50), seconds(load.tpot.p99), "unknown" if energy is None else f"{number(energy)} J",
    ]  # fmt: skip
