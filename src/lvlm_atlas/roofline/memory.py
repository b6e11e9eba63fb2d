"""What lies in device memory: weights, cache, activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.roofline.cache import held
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.kind import PromptLayers, cache_layers, prompt_layers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.llm import prompt_length
from lvlm_atlas.roofline.stages import Stages
from lvlm_atlas.roofline.state import Answered, Cached, Encoded, Limits, Prefilled, Shares, State
from lvlm_atlas.roofline.weights import weights_byte


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
    """Largest activations that live at a time."""
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
    activation = activation_byte(stages, state.encoded, state.prefilled)
    extra = layout.batch * sum(each.memory_byte for each in state.extras)
    device = on_a_device(layout, deployment, peak, activation, extra, shares)
    return Memory(weights_left(layout, shares), kv, vision, peak, activation, extra, device)


def weights_left(layout: Layout, shares: Shares) -> dict[str, float]:
    """Bytes of the weights of each part, as many of the LLM's as are left."""
    byte = weights_byte(layout.weights, layout.model)
    return {part: each * (1.0 if part in ("encoder", "adapter") else shares.weights) for part, each in byte.items()}


def cache_byte(stages: Stages, cached: Cached, grown: float) -> tuple[float, float]:
    """Bytes of the cache once `grown` tokens have followed the first prompt, and of its vision entries."""
    byte = vision = 0.0
    for layer, count in cache_layers(cached, stages.places).items():
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


def activation_byte(stages: Stages, encoded: Encoded, prefilled: Prefilled) -> float:
    """Largest activations that live at a time."""
    prompt = llm_activation_byte(stages.layout, prompt_layers(prefilled, stages.places))
    return max(encoder_activation_byte(stages.layout, encoded), prompt)


def on_a_device(
    layout: Layout, deployment: Deployment, peak: float, activation: float, extra: float, shares: Shares
) -> dict[str, float]:
    """What one device must hold; the terms are those of `Memory`."""
    model = layout.model
    byte = weights_left(layout, shares)
    cache_shards = 1 if model.llm.latent else min(layout.shards, model.llm.kv_heads)
    vision_weight = byte.pop("encoder") + byte.pop("adapter")
    vision = vision_weight / layout.encoder_shards / deployment.pipeline_parallel
    return {
        "weights": sum(byte.values()) / deployment.devices + vision,
        "cache": peak / cache_shards / deployment.pipeline_parallel,
        "activations": activation,
        "techniques": extra / deployment.devices,
        "reserve": deployment.efficiency.reserve_byte,
    }


def request_share(held: Mapping[str, float], batch: int, memory_byte: float) -> float:
    """Share of what a device has left for requests, each prefilled by itself, that one takes; ∞ where nothing is left.

    Args:
        held: what the device must hold, the terms of `Memory`.
        batch: requests that it holds so.
        memory_byte: the device's memory.
    """
    free = memory_byte - held["weights"] - held["reserve"] - held["activations"] / batch
    return (held["cache"] + held["techniques"]) / batch / free if free > 0 else math.inf


SCORE_BYTE = 4
"""Bytes of a materialised score: softmax runs in 32 bits whatever the activations are."""


def encoder_activation_byte(layout: Layout, encoded: Encoded) -> float:
    """Hidden states of all sequences, with one device's part of the widest intermediate of a layer.

    Of the scores as well, if they are materialised.
    """
    encoder = layout.model.encoder
    tokens = scores = 0.0
    for each, schedule in zip(encoded.visual.patches, encoded.encoder_patch, strict=True):
        length = schedule[0] + each.token - each.patch
        tokens += each.sequences * length
        scores += each.sequences * length**2 * encoder.heads
    inner = max(3 * encoder.heads * encoder.head_dim, (2 if encoder.gated_mlp else 1) * encoder.mlp)
    shards = layout.encoder_shards
    held_byte = tokens * (2 * encoder.hidden + inner / shards) * layout.activation_byte
    return layout.batch * (held_byte + (scores * SCORE_BYTE / shards if layout.materialised else 0.0))


def llm_activation_byte(layout: Layout, layers: PromptLayers) -> float:
    """The same for the prompt in the LLM, and the logits of one position."""
    llm = layout.model.llm
    length = max(prompt_length(layout, layer) for layer in layers)
    used = llm.experts.intermediate * (llm.experts.top_k + llm.experts.shared) if llm.experts else llm.intermediate
    inner = max((llm.heads + 2 * llm.kv_heads) * llm.head_dim, 2 * used)
    shards = layout.shards
    held_byte = (length * (2 * llm.hidden + inner / shards) + llm.vocab / shards) * layout.activation_byte
    scores = length**2 * llm.heads * SCORE_BYTE / shards if layout.materialised else 0.0
    return layout.batch * (held_byte + scores)
