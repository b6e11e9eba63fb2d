"""What lies in device memory: weights, cache, activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lvlm_atlas.roofline.cache import held
from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.kind import Kind
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.state import State
from lvlm_atlas.roofline.workload import Workload


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in device memory. All devices together, but for `held`."""

    weight_byte: float
    """Weights of all parts."""
    kv_byte: float
    """Cache once the first prompt is in."""
    kv_vision_byte: float
    """The part of `kv_byte` that holds vision tokens."""
    kv_peak_byte: float
    """Cache at the end of the last answer, as far as it stays on the devices."""
    activation_byte: float
    """Largest activations that live at a time."""
    extra_byte: float
    """What techniques keep."""
    held: Mapping[str, float]
    """What one device must hold, by what it is: weights, cache, activations, techniques, reserve."""

    @property
    def device_byte(self) -> float:
        """What one device must hold, the reserve included."""
        return sum(self.held.values())


def memory(layout: Layout, state: State, layers: dict[Kind, int], deployment: Deployment, workload: Workload) -> Memory:
    """What a request keeps in memory."""
    model, batch = layout.model, layout.batch
    grown = workload.turns * state.output + (workload.turns - 1) * state.text - 1
    kv = vision = peak = 0.0
    for kind, count in layers.items():
        first, last = (held(layout, state, kind, tokens) for tokens in (0, grown))
        kv += batch * count * first.byte
        vision += batch * count * first.vision_byte
        peak += batch * count * last.byte
    peak *= state.resident
    weight = model.parameters * layout.weight_byte
    activation = max(encoder_activation_byte(layout, state), llm_activation_byte(layout, state, layers))
    extra = batch * sum(each.memory_byte for each in state.extras)
    parts = on_a_device(layout, deployment, peak, activation, extra)
    return Memory(weight, kv, vision, peak, activation, extra, parts)


def on_a_device(
    layout: Layout, deployment: Deployment, peak: float, activation: float, extra: float
) -> dict[str, float]:
    """What one device must hold; the terms are those of `Memory`."""
    model = layout.model
    weight = model.parameters * layout.weight_byte
    cache_shards = 1 if model.llm.latent else min(layout.shards, model.llm.kv_heads)
    vision_weight = (model.encoder.parameters + model.adapter.parameters) * layout.weight_byte
    vision = vision_weight / layout.encoder_shards / deployment.pipeline_parallel
    return {
        "weights": (weight - vision_weight) / deployment.devices + vision,
        "cache": peak / cache_shards / deployment.pipeline_parallel,
        "activations": activation,
        "techniques": extra / deployment.devices,
        "reserve": deployment.efficiency.reserve_byte,
    }


SCORE_BYTE = 4
"""Bytes of a materialised score: softmax runs in 32 bits whatever the activations are."""


def encoder_activation_byte(layout: Layout, state: State) -> float:
    """Hidden states of all sequences, with one device's part of the widest intermediate of a layer.

    Of the scores as well, if they are materialised.
    """
    encoder = layout.model.encoder
    tokens = scores = 0.0
    for each, schedule in zip(state.visual.patches, state.encoder_patch, strict=True):
        length = schedule[0] + each.token - each.patch
        tokens += each.sequences * length
        scores += each.sequences * length**2 * encoder.heads
    inner = max(3 * encoder.heads * encoder.head_dim, (2 if encoder.gated_mlp else 1) * encoder.mlp)
    shards = layout.encoder_shards
    held_byte = tokens * (2 * encoder.hidden + inner / shards) * layout.activation_byte
    return layout.batch * (held_byte + (scores * SCORE_BYTE / shards if layout.materialised else 0.0))


def llm_activation_byte(layout: Layout, state: State, layers: dict[Kind, int]) -> float:
    """The same for the prompt in the LLM, and the logits of one position."""
    llm = layout.model.llm
    length = state.text + state.marker + (0 if llm.cross_layers else max((kind.vision for kind in layers), default=0.0))
    used = llm.experts.intermediate * (llm.experts.top_k + llm.experts.shared) if llm.experts else llm.intermediate
    inner = max((llm.heads + 2 * llm.kv_heads) * llm.head_dim, 2 * used)
    shards = layout.shards
    held_byte = (length * (2 * llm.hidden + inner / shards) + llm.vocab / shards) * layout.activation_byte
    scores = length**2 * llm.heads * SCORE_BYTE / shards if layout.materialised else 0.0
    return layout.batch * (held_byte + scores)
