"""The columns of a sweep over servers under load: those of `serve-sim -f json`, each a number or a text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lvlm_atlas.sweep.columns import Column

_LATENCY = {"mean": "mean", "p50": "median", "p90": "90th percentile", "p99": "99th percentile"}


def _latencies(name: str, what: str) -> Iterator[Column]:
    for part, word in _LATENCY.items():
        yield Column(f"{name}_{part}", "float64", f"{what}, {word}. Unit: s.", (name, part))


def _own(name: str, kind: str, doc: str) -> Column:
    return Column(name, kind, doc, (name,))


COLUMNS = (
    Column("point", "int64", "Number of the point, from 0; the order of the rows."),
    Column("model", "string", "Id of the model."),
    Column("hardware", "string", "Id of the device."),
    Column("workload", "string", "What arrives."),
    _own("policy", "string", "Layout of the server, with the sizes of its pools."),
    _own("stack", "string", "Techniques with their settings, as --stack takes them; empty: none."),
    _own("rate", "float64", "Requests a second that come; null: as a trace or the clients have it."),
    _own("devices", "int64", "Devices of the server."),
    _own("requests", "int64", "Requests that came."),
    _own("duration_s", "float64", "From the first arrival to the last token. Unit: s."),
    _own("requests_s", "float64", "Requests answered a second."),
    _own("tokens_s", "float64", "Tokens generated a second."),
    *_latencies("ttft_s", "Time to the first token"),
    *_latencies("tpot_s", "Time for each further token"),
    *_latencies("total_s", "Time to the last token"),
    _own("slo", "string", "Limits in seconds, as JSON."),
    _own("attainment", "float64", "Share of the requests within the limits."),
    _own("goodput_s", "float64", "Requests within the limits a second."),
    _own("eta_scale", "float64", "What is left of that share at so many times the load and devices; null: not asked."),
    _own("pools", "string", "What each pool was busy with, as JSON."),
    _own("energy_j_token", "float64", "Energy of all devices for each token. Unit: J."),
    _own("cost_usd", "float64", "Price of all devices for each request within the limits. Unit: USD."),
    _own("preemptions", "int64", "Caches given up for want of room."),
    _own("link_byte", "float64", "Bytes that went over links."),
    _own("embedding_hits", "float64", "Share of the images asked for by name whose embeddings were there."),
    _own("present", "float64", "Requests in the system on average."),
    _own("saturated", "bool", "Whether the queue grew for as long as requests came."),
    Column("error", "string", "Why the server cannot be; null: nothing is wrong."),
)
"""All columns, in their order."""


def predicted(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a row of `serve-sim -f json` fills."""
    filled: dict[str, Any] = {}
    for column in COLUMNS:
        value: Any = row
        for step in column.path:
            value = value[step]
        if column.path:
            filled[column.name] = _plain(value)
    return filled


def _plain(value: object) -> object:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "+".join(value)
    return json.dumps(value) if isinstance(value, list | dict) else value
