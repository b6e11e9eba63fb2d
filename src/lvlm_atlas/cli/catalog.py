"""Models, devices, workloads, runtimes and serving systems as rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lvlm_atlas.atlas.shelves import Shelves
from lvlm_atlas.cli.options import Listing
from lvlm_atlas.roofline.units import number, parameters, share
from lvlm_atlas.schema.hardware import Hardware
from lvlm_atlas.schema.model import Model
from lvlm_atlas.schema.runtime import Runtime
from lvlm_atlas.schema.workload import Workload

WHOLE = (Listing.json, Listing.jsonl)
"""Formats for programs."""
MODEL_COLUMNS = ("id", "parameters", "encoder", "language model", "video")
"""What a table shows of a model."""
DEVICE_COLUMNS = ("id", "name", "16-bit TFLOP/s", "GB/s", "GB", "W")
"""What a table shows of a device."""
WORKLOAD_COLUMNS = ("id", "input", "text", "output", "turns", "batch")
"""What a table shows of a workload."""
RUNTIME_COLUMNS = ("id", "versions", "timings", "error", "left out", "kept aside", "a layer", "a pass", "a megapixel")
"""What a table shows of a runtime."""
SYSTEM_COLUMNS = ("id", "kind", "stages", "lossless", "summary")
"""What a table shows of a serving system."""


def model_rows(atlas: Shelves, id_: str | None, listing: Listing) -> Iterator[dict[str, Any]]:
    """The models, or one: whole records where a program reads them, else with what a table shows."""
    for model in [atlas.model(id_)] if id_ else atlas.models.values():
        yield {**model.model_dump(mode="json", exclude_none=True), **({} if listing in WHOLE else _model(model))}


def device_rows(atlas: Shelves, id_: str | None, listing: Listing) -> Iterator[dict[str, Any]]:
    """The devices, or one."""
    for device in [atlas.device(id_)] if id_ else atlas.hardware.values():
        yield {**device.model_dump(mode="json", exclude_none=True), **({} if listing in WHOLE else _device(device))}


def workload_rows(atlas: Shelves, id_: str | None, listing: Listing) -> Iterator[dict[str, Any]]:
    """The workloads, or one."""
    for workload in [atlas.workload(id_)] if id_ else atlas.workloads.values():
        yield {
            **workload.model_dump(mode="json", exclude_none=True),
            **({} if listing in WHOLE else _workload(workload)),
        }


def runtime_rows(atlas: Shelves, id_: str | None, listing: Listing) -> Iterator[dict[str, Any]]:
    """The runtimes, or one."""
    for runtime in [atlas.runtime(id_)] if id_ else atlas.runtimes.values():
        shown = {} if listing in WHOLE else _runtime(runtime, atlas)
        yield {**runtime.model_dump(mode="json", exclude_none=True), **shown}


def system_rows(atlas: Shelves, id_: str | None) -> Iterator[dict[str, Any]]:
    """The serving systems and features of engines, or one."""
    for system in [atlas.system(id_)] if id_ else atlas.systems.values():
        yield system.model_dump(mode="json", by_alias=True, exclude_none=True)


def _model(model: Model) -> dict[str, Any]:
    return {
        "parameters": parameters(model.params.total),
        "encoder": model.vision.name.partition(" (")[0],
        "language model": model.llm.name.partition(" (")[0],
        "video": "yes" if model.tokens.video else "no",
    }


def _device(device: Hardware) -> dict[str, Any]:
    peak = device.peak_tflop_s.bf16 or device.peak_tflop_s.fp16
    shown = {"16-bit TFLOP/s": peak, "GB/s": device.bandwidth_gb_s, "GB": device.memory_gb, "W": device.tdp_w}
    return {name: None if value is None else number(value) for name, value in shown.items()}


def _runtime(runtime: Runtime, atlas: Shelves) -> dict[str, Any]:
    timed = atlas.runtime(runtime.times_of) if runtime.times_of else runtime
    host, fit = timed.host, runtime.fit
    return {
        "timings": f"as {timed.id}" if runtime.times_of else fit.points if fit else 0,
        "error": share(fit.residual) if fit else None,
        "left out": share(fit.left_out) if fit else None,
        "kept aside": share(runtime.judged.error) if runtime.judged else None,
        "a layer": f"{host.layer_us:g} µs" if host.layer_us else None,
        "a pass": f"{host.step_ms:g} ms" if host.step_ms else None,
        "a megapixel": f"{host.megapixel_ms:g} ms" if host.megapixel_ms else None,
    }


def _workload(workload: Workload) -> dict[str, Any]:
    images = [f"{each.count} × {each.width}x{each.height}" for each in workload.images]
    videos = [
        f"{each.width}x{each.height} for {each.duration_s:g} s at {each.sample_fps:g}/s" for each in workload.videos
    ]
    return {
        "input": "; ".join(images + videos),
        "text": workload.text_tokens,
        "output": workload.output_tokens,
        "turns": workload.turns,
        "batch": workload.batch,
    }
