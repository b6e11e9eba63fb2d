"""What lies in device memory: weights, cache, activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.limits import REQUEST
from lvlm_atlas.roofline.activations import Activations, activations
from lvlm_atlas.roofline.cache import held
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.kind import cache_layers, prompt_layers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.stages import Stages
from lvlm_atlas.roofline.state import Answered, Cached, Limits, Shares, State


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in device memory. All devices together, but for `held`."""

    weights: Mapping[str, float]
    """Weights by part, of `weights.PARTS`."""
    kv_byte: float
    """Cache once the first prompt is in."""
    kv_vision_byte: float
    """The part of `kv_byte` that holds vision tokens."""
    kv_peak_byte: float
    """Cache at its largest, once the first prompt is in or at the end of the last answer, as far as it stays on the
    devices."""
    activation_byte: float
    """Largest activations that live at a time, on one device."""
    activations: Activations
    """The same for any number of requests."""
    extra_byte: float
    """What techniques keep."""
    held: Mapping[str, float]
    """What one device must hold, by what it is: weights, cache, activations, techniques, reserve."""

    @property
    def weight_byte(self) -> float:
        """Weights of all parts."""
        return sum(self.weights.values())

    @property
    def device_byte(self) -> float:
        """What one device must hold, the reserve included."""
        return sum(self.held.values())


def memory(stages: Stages, state: State, deployment: Deployment) -> Memory:
    """What a request keeps in memory."""
    layout, cached = stages.layout, state.cached
    kv, vision = cache_byte(stages, cached, 0)
    peak = resident_byte(stages, cached, state.answered)
    shares = cached.shares
    passes = activations(layout, state.encoded, prompt_layers(state.prefilled, stages.places), deployment.pass_tokens)
    activation = passes.of(layout.batch)
    extra = layout.batch * sum(each.memory_byte for each in state.extras)
    device = on_a_device(layout, deployment, peak, activation, extra, shares)
    return Memory(weights_left(layout, shares), kv, vision, peak, activation, passes, extra, device)


def weights_left(layout: Layout, shares: Shares) -> dict[str, float]:
    """Bytes of the weights of each part, as many of the LLM's as are left."""
    left = shares.weights
    return {part: byte * (1.0 if part in ("encoder", "adapter") else left) for part, byte in layout.part_byte.items()}


def cache_byte(stages: Stages, cached: Cached, grown: float) -> tuple[float, float]:
    """Bytes of the cache once `grown` tokens have followed the first prompt, and of its vision entries."""
    byte = vision = 0.0
    for layer, count in cache_layers(cached, stages.places).items():
        if layer.place.borrows:
            continue
        holds = held(stages.layout, cached, layer, grown)
        byte += stages.layout.batch * count * holds.byte
        vision += stages.layout.batch * count * holds.vision_byte
    share = cached.shares.kv_layers
    return byte * share, vision * share


def resident_byte(stages: Stages, cached: Cached, answered: Answered) -> float:
    """Bytes of the cache at its largest, as far as it stays on the devices."""
    byte, _ = cache_byte(stages, cached, stages.grown(answered, stages.turns))
    if any(limits != Limits() for limits in cached.limits):  # it may have been larger before it was bounded
        byte = max(byte, cache_byte(stages, cached, 0)[0])
    return byte * cached.resident


def on_a_device(
    layout: Layout, deployment: Deployment, peak: float, activation: float, extra: float, shares: Shares
) -> dict[str, float]:
    """What one device must hold; the terms are those of `Memory`."""
    model = layout.model
    cache_shards = 1 if model.llm.latent else min(layout.shards, model.llm.kv_heads)
    vision = layout.vision_byte / layout.encoder_shards / deployment.pipeline_parallel
    return {
        "weights": layout.llm_byte * shares.weights / deployment.devices + vision,
        "cache": peak / cache_shards / deployment.pipeline_parallel,
        "activations": activation,
        "techniques": extra / deployment.devices,
        "reserve": deployment.reserve_byte,
    }


def request_share(held: Mapping[str, float], passes: Activations, batch: int, memory_byte: float) -> float:
    """Share of what a device has left for requests that one takes; ∞ where nothing is left.

    Args:
        held: what the device must hold, the terms of `Memory`.
        passes: the activations; each request is prefilled by itself, or within the budget of tokens.
        batch: requests that it holds so.
        memory_byte: the device's memory.
    """
    free = memory_byte - held["weights"] - held["reserve"] - passes.beside_others
    return (held["cache"] + held["techniques"]) / batch / free if free > 0 else math.inf


def largest_batch(held: Mapping[str, float], passes: Activations, batch: int, memory_byte: float) -> int:
    """Most requests that a device can process together, their activations included; 0: not one.

    Args:
        held: what the device must hold, the terms of `Memory`.
        passes: the activations.
        batch: requests that it holds so.
        memory_byte: the device's memory.
    """
    free = memory_byte - held["weights"] - held["reserve"]
    each = (held["cache"] + held["techniques"]) / batch
    fitting, beyond = 0, REQUEST["batch"][1] + 1
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        if middle * each + passes.of(middle) <= free:
            fitting = middle
        else:
            beyond = middle
    return fitting
