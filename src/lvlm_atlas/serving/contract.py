"""A server under load as JSON: what programs may rely on. SI base units; all is predicted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal, cast

from pydantic import ConfigDict
from typing_extensions import TypedDict

from lvlm_atlas.serving.load import Load, Percentiles
from lvlm_atlas.serving.scenario import COMMON, Scenario

# pydantic reads these types at run time; further keys may come.
_OPEN = ConfigDict(extra="allow")
FORMAT: Literal["lvlm-atlas-serve-sim/1"] = "lvlm-atlas-serve-sim/1"


class Latency(TypedDict):
    """A latency over all requests, in seconds."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    mean: float
    p50: float
    p90: float
    p99: float


class PoolRow(TypedDict):
    """What a pool was busy with, in shares of the time of its instances."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    name: str
    stages: str
    instances: int
    encoding: float
    prefilling: float
    decoding: float
    cache_peak: float


class LoadRow(TypedDict):
    """A server under one load."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    policy: str
    stack: list[str]
    rate: float | None
    devices: int
    requests: int
    duration_s: float
    requests_s: float
    tokens_s: float
    ttft_s: Latency
    tpot_s: Latency
    total_s: Latency
    slo: dict[str, float]
    attainment: float
    goodput_s: float
    eta_scale: float | None
    pools: list[PoolRow]
    energy_j_token: float | None
    cost_usd: float | None
    preemptions: int
    link_byte: float
    embedding_hits: float | None
    present: float
    saturated: bool


class ServeSim(TypedDict):
    """`serve-sim -f json`."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    format: Literal["lvlm-atlas-serve-sim/1"]
    evidence: Literal["predicted"]
    model: str
    hardware: str
    workload: str
    loads: list[LoadRow]
    assumptions: list[str]
    data: str


def row(scenario: Scenario, load: Load, rate: float | None, eta_scale: float | None = None) -> LoadRow:
    """A server under one load.

    Args:
        scenario: the server.
        load: what came of it.
        rate: requests a second; None: as a trace or the clients have it.
        eta_scale: its scaling efficiency; None: not asked.
    """
    shown = {
        "policy": _named(scenario), "stack": [*scenario.labels], "rate": rate, "devices": load.devices,
        "requests": load.requests, "duration_s": load.duration_s, "requests_s": load.requests_s,
        "tokens_s": load.tokens_s, "ttft_s": _latency(load.ttft), "tpot_s": _latency(load.tpot),
        "total_s": _latency(load.total), "slo": dict(load.slo), "attainment": load.attainment,
        "goodput_s": load.goodput, "eta_scale": eta_scale,
        "pools": [cast("PoolRow", asdict(each)) for each in load.pools],
        "energy_j_token": load.energy_j_token, "cost_usd": load.cost_usd, "preemptions": load.preemptions,
        "link_byte": load.link_byte, "embedding_hits": load.embedding_hits, "present": load.present,
        "saturated": load.saturated,
    }  # fmt: skip
    return cast("LoadRow", shown)


def document(rows: list[LoadRow], scenarios: list[Scenario], workload: str, data: str) -> ServeSim:
    """All loads of a command as one document."""
    first = scenarios[0]
    whole = {
        "format": FORMAT, "evidence": "predicted", "model": first.model.id, "hardware": first.device.id,
        "workload": workload, "loads": rows,
        "assumptions": list(dict.fromkeys(each for scenario in scenarios for each in assumptions(scenario))),
        "data": data,
    }  # fmt: skip
    return cast("ServeSim", whole)


def assumptions(scenario: Scenario) -> list[str]:
    """What a scenario takes for granted."""
    return [*COMMON, *(f"{scenario.policy.id}: {each}" for each in scenario.policy.assumptions)]


def _named(scenario: Scenario) -> str:
    """A policy with the sizes of its pools."""
    return f"{scenario.policy.id}:{','.join(str(pool.instances) for pool in scenario.policy.pools)}"


def _latency(found: Percentiles) -> Latency:
    return cast("Latency", asdict(found))
