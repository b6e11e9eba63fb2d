"""CoverPruner: the vision tokens that best stand in for all others, each as important as the text's first look says.

Paper: zhu2026coverpruner, of which the abstract and summaries could be read; no code is released. Symbols: v_i → the
vision tokens as they enter the LLM; w_i → demand; sim → likeness; S → the kept; K → `tokens`.

f(S) = Σ_i w_i max_{j ∈ S} sim(v_i, v_j) is maximised greedily, which reaches (1 − 1/e) of the greatest value at least.

Departs:
1. How the first layer's attention becomes w_i is not in what was read. Here it is what the text pays to a token in that
   layer, the mean over heads and over the text tokens behind the first vision token.
2. sim is the cosine of tokens that were centred by their mean, and 0 where it is negative. Over which tokens was not
   said; here, over all vision tokens of the prompt.
3. The first layer runs on all tokens, its attention is read, and all others run on the kept tokens. Whether the paper
   runs that layer too, or projects its queries and keys alone and leaves fewer tokens to it as well, was not said.
4. Of equal gains the earlier token is chosen. Where no text follows the image every token counts alike.

B batch, H heads, R rows of the text, V vision tokens, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.diversity import greedy_cover
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def likeness(token_BVD: Tensor) -> Tensor:
    """How well each vision token stands in for each other (B, V, V): the cosine of both less the mean, at least 0."""
    token_BVD = token_BVD.to(torch.promote_types(token_BVD.dtype, torch.float32))
    unit_BVD = unit(token_BVD - token_BVD.mean(dim=1, keepdim=True))
    return (unit_BVD @ unit_BVD.mT).clamp(min=0)


def coverage(likeness_BVV: Tensor, demand_BV: Tensor, kept_BK: Tensor) -> Tensor:
    """Coverage f (B,): how well the kept tokens stand in for all, by demand; 0 where none are kept."""
    covered_BV = take(likeness_BVV.mT, kept_BK).amax(dim=1) if kept_BK.shape[1] else torch.zeros_like(demand_BV)
    return (demand_BV * covered_BV).sum(dim=1)


def coverpruner(token_BVD: Tensor, demand_BV: Tensor, tokens: int) -> Tensor:
    """Places (B, K) in the order of choice: each adds most to `coverage`; K = min(`tokens`, V).

    Args:
        token_BVD: vision tokens.
        demand_BV: at least 0.
        tokens: how many to keep.
    """
    keep = min(tokens, token_BVD.shape[1])
    return greedy_cover(likeness(token_BVD), torch.ones_like(demand_BV), keep, demand_BV=demand_BV)


@dataclass(frozen=True)
class CoverPruner(Technique):
    """At `llm-layer`: leaves `tokens` vision tokens behind the first layer, with their position ids.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens: int = 64

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-row", "visual-features", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")

    def begin(self, run: Run) -> Pruning:
        """What acts in a run.

        Raises:
            Refusal: the LLM has a single layer, or another technique may drop tokens between its layers.
        """
        expect_alone(run, self, "CoverPruner compares the tokens as they entered the LLM")
        if run.config.text.num_hidden_layers < 2:
            raise Refusal("CoverPruner prunes behind the first layer of the LLM, which has no other; leave it out")
        return Pruning(self.tokens)


@dataclass
class Pruning:
    """CoverPruner in one run."""

    tokens: int
    entered_BVD: Tensor = field(default_factory=Tensor)
    """The vision tokens as they entered the LLM."""

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer from the second layer on."""
        sequence, attention = at.sequence, at.sequence.attention
        if at.layer > 1 or (at.layer and attention is None):
            return sequence
        place_BV = sequence.vision_places()
        if not at.layer or attention is None:
            self.entered_BVD = take(sequence.hidden_BND, place_BV)
            return sequence
        if place_BV.shape[1] <= self.tokens:
            return sequence
        text_BT = places_of(~sequence.vision_BN)
        behind_R = text_BT[0, text_BT[0] > place_BV[0, 0]]
        demand_BV = torch.ones_like(place_BV, dtype=torch.float32)
        if len(behind_R):
            demand_BV = attention.rows(behind_R).mean(dim=(1, 2)).gather(1, place_BV)
        chosen_BK = coverpruner(self.entered_BVD, demand_BV, self.tokens)
        return sequence.keep_vision(places_of(mask_of(chosen_BK, place_BV.shape[1])))
