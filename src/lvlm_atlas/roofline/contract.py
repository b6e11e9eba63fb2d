"""The estimate as JSON: what programs may rely on. `contract_fields` tells names, units and meanings."""

from __future__ import annotations

from typing import Any

from lvlm_atlas.roofline.contract_fields import FORMAT
from lvlm_atlas.roofline.estimate import Estimate
from lvlm_atlas.roofline.operator import Operator
from lvlm_atlas.roofline.stage import Stage
from lvlm_atlas.roofline.state import Encoded, State


def contract(estimate: Estimate, *, operators: bool = False) -> dict[str, Any]:
    """The estimate as JSON data, with its operators on request. Numbers without a fraction are integers."""
    state, memory, energy = estimate.state, estimate.memory, estimate.energy_j
    found: dict[str, Any] = {
        "format": FORMAT,
        "model": estimate.model.id,
        "hardware": estimate.device.id,
        "workload": estimate.workload.id,
        "stack": [each.label for each in estimate.stack],
        "batch": estimate.workload.batch,
        "tokens": _tokens(state),
        "kv_byte": memory.kv_byte,
        "kv_vision_byte": memory.kv_vision_byte,
        "kv_text_byte": memory.kv_byte - memory.kv_vision_byte,
        "kv_peak_byte": memory.kv_peak_byte,
        "weight_byte": memory.weight_byte,
        "weight_part_byte": dict(memory.weights),
        "activation_byte": memory.activation_byte,
        "device_byte": memory.device_byte,
        "stages": {name: _stage(stage, estimate.deployment.devices) for name, stage in estimate.stages.items()},
        "flop": dict(estimate.flop),
        "ttft_s": estimate.ttft_s,
        "tpot_s": estimate.tpot_s,
        "total_s": estimate.total_s,
        "tokens_per_s": estimate.tokens_s if estimate.tpot_s else None,
        "energy_j": energy,
        "energy_j_per_token": None if energy is None else energy / estimate.output_tokens,
        "cost_usd": estimate.cost_usd,
        "visual_kv_share": estimate.visual_kv_share,
        "bottleneck": estimate.bottleneck,
        "ridge_flop_per_byte": estimate.device.ridge(estimate.dtype),
        "fits": estimate.fits,
        "fits_at_once": estimate.fits_at_once,
        "fits_tokens": estimate.fits_tokens,
        "largest_batch": estimate.largest_batch,
        "context_tokens": estimate.context_tokens,
        "prompt_tokens": estimate.prompt_tokens,
        "model_context_tokens": estimate.model.llm.context,
        "prompt_fits": estimate.prompt_fits,
        "frames_read": estimate.frames_read[0],
        "frames_asked": estimate.frames_read[1],
        "image_sizes": [f"{each.width}x{each.height}" for each in estimate.workload.images],
        "efficiency": None if estimate.deployment.runtime else estimate.deployment.efficiency.name,
        "runtime": estimate.deployment.runtime.id if estimate.deployment.runtime else None,
        "residual": estimate.residual,
        "band": {name: _band(estimate, getattr(estimate, name)) for name in ("ttft_s", "tpot_s", "total_s")},
        "assumptions": list(estimate.assumptions),
    }
    if operators:
        found["operators"] = [
            _operator(name, each) for name, stage in estimate.stages.items() for each in stage.operators
        ]
    return {key: whole(value) for key, value in found.items()}


def _band(estimate: Estimate, time_s: float) -> list[float] | None:
    band = estimate.band_s(time_s)
    return None if band is None else list(band)


def whole(value: Any) -> Any:
    """The same data, with numbers that have no fraction as integers."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def _tokens(state: State) -> dict[str, Any]:
    encoded = state.encoded
    return {
        "encoder": round(_encoder_token(encoded, 0)),
        "vision": round(encoded.marker or encoded.vision),
        "cross_attention": round(encoded.vision) if encoded.visual.cross_token else 0,
        "text": encoded.text,
        "output": state.output,
        "encoder_layers": [_encoder_token(encoded, layer) for layer in range(_encoder_layers(encoded))],
        "llm_layers": [encoded.text + n for n in _sequence_vision(state)],
        "llm_vision_layers": list(state.prefilled.vision),
    }


def _sequence_vision(state: State) -> tuple[float, ...]:
    """Visual positions of the sequence in each LLM layer."""
    vision = state.prefilled.vision
    return (state.encoded.marker,) * len(vision) if state.encoded.visual.cross_token else vision


def _encoder_layers(encoded: Encoded) -> int:
    return len(encoded.encoder_patch[0]) - 1 if encoded.encoder_patch else 0


def _encoder_token(encoded: Encoded, layer: int) -> float:
    """Tokens that enter an encoder layer, class tokens included."""
    return sum(
        each.sequences * (schedule[layer] + each.token - each.patch)
        for each, schedule in zip(encoded.visual.patches, encoded.encoder_patch, strict=True)
    )


def _stage(stage: Stage, devices: int) -> dict[str, Any]:
    return {
        "time_s": stage.time_s,
        "flop": stage.flop,
        "byte": stage.byte,
        "intensity": stage.intensity,
        "bound": stage.bound,
        "flop_per_s_device": stage.flop_s / devices,
    }


def _operator(stage: str, each: Operator) -> dict[str, Any]:
    work = each.work
    return {
        "stage": stage, "name": work.name, "kind": work.kind, "flop": work.flop, "byte": work.byte,
        "weight_byte": work.weight_byte, "activation_byte": work.activation_byte, "kv_byte": work.kv_byte,
        "link_byte": work.link_byte, "host_byte": work.host_byte, "intensity": each.intensity,
        "time_s": each.time_s, "bound": each.bound,
    }  # fmt: skip
