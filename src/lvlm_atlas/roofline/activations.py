"""What a pass keeps in device memory beside weights and cache, for as many requests as it handles."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lvlm_atlas.roofline.kind import PromptLayers
from lvlm_atlas.roofline.layout import Layout
from lvlm_atlas.roofline.llm import prompt_length
from lvlm_atlas.roofline.state import Encoded

SCORE_BYTE = 4
"""Bytes of a materialised score: softmax runs in 32 bits whatever the activations are."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Largest activations that live at a time on one device, in bytes."""

    encoder: float
    """Of the encoder, for one request."""
    encoder_most: float
    """Of the encoder in a pass over as many images as the budget of tokens allows; ∞: there is no budget."""
    prompt: float
    """Of the LLM, for the prompt of one request."""
    prompt_most: float
    """Of the LLM in a pass over as many tokens as the budget allows; ∞: there is no budget."""

    def of(self, batch: float) -> float:
        """Those of so many requests that are prefilled together, or in passes within the budget."""
        return max(min(batch * self.encoder, self.encoder_most), min(batch * self.prompt, self.prompt_most))

    @property
    def beside_others(self) -> float:
        """Those that a device keeps free while it holds many requests: of a full pass, or of one request's prompt."""
        full = max(self.encoder_most if self.encoder else 0.0, self.prompt_most)
        return self.of(1) if math.isinf(full) else full


def activations(layout: Layout, encoded: Encoded, layers: PromptLayers, budget: int | None) -> Activations:
    """What the passes over a request's images and prompt keep.

    Args:
        layout: the model on its devices.
        encoded: what encoder and adapter make of the request.
        layers: the kinds of layers that the prompt meets.
        budget: most tokens of a pass; None: each pass handles all requests of its batch.
    """
    hidden, logits = _prompt_byte(layout, layers)
    prompts = math.inf if budget is None else budget / max(1.0, _length(layout, layers))
    most = hidden * prompts + logits * max(1.0, prompts)
    return Activations(*of_encoder(layout, encoded, budget), hidden + logits, most)


def of_encoder(layout: Layout, encoded: Encoded, budget: int | None) -> tuple[float, float]:
    """What the encoder keeps for one request, and at most in a pass within the budget."""
    byte, visual = encoder_byte(layout, encoded), encoded.visual
    vision = visual.cross_token or visual.llm_token
    if budget is None or not vision:
        return byte, math.inf
    # A server encodes an image as a whole, even where it has more tokens than the budget.
    image = vision / max(1, sum(each.sequences for each in visual.patches))
    return byte, byte * max(budget, image) / vision


def encoder_byte(layout: Layout, encoded: Encoded) -> float:
    """Hidden states of all sequences of a request, with one device's part of the widest intermediate of a layer.

    Of the scores as well, if they are materialised.
    """
    encoder = layout.model.encoder
    tokens = scores = 0.0
    for each, schedule in zip(encoded.visual.patches, encoded.encoder_patch, strict=True):
        length = schedule[0] + each.token - each.patch
        tokens += each.sequences * length
        scores += each.sequences * length**2 * encoder.heads
    if front := encoder.front:  # on more patches than the encoder itself, though fewer at a width
        larger = front.stride**2 * sum(each.sequences * each.patch for each in encoded.visual.patches)
        wide = 2 * front.hidden + max(3 * front.hidden, front.mlp)
        front_byte = larger * wide * layout.activation_byte
    else:
        front_byte = 0.0
    inner = max(3 * encoder.heads * encoder.head_dim, (2 if encoder.gated_mlp else 1) * encoder.mlp)
    shards = layout.encoder_shards
    held_byte = tokens * (2 * encoder.hidden + inner / shards) * layout.activation_byte
    return max(front_byte, held_byte + (scores * SCORE_BYTE / shards if layout.materialised else 0.0))


def _prompt_byte(layout: Layout, layers: PromptLayers) -> tuple[float, float]:
    """The same for the prompt of a request in the LLM, and the logits of one position."""
    llm = layout.model.llm
    length = _length(layout, layers)
    used = (
        llm.experts.intermediate * (llm.experts.top_k + llm.experts.shared)
        if llm.experts
        else llm.intermediate_at(bool(llm.borrowing_layers))
    )
    inner = max((llm.heads + 2 * llm.kv_heads) * llm.head_dim, 2 * used)
    shards = layout.shards
    hidden = length * (2 * llm.hidden + inner / shards) * layout.activation_byte
    scores = length**2 * llm.heads * SCORE_BYTE / shards if layout.materialised else 0.0
    return hidden + scores, llm.vocab / shards * layout.activation_byte


def _length(layout: Layout, layers: PromptLayers) -> float:
    """Positions of the prompt in the layer that has most."""
    return max(prompt_length(layout, layer) for layer in layers)
