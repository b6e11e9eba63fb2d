"""SIEVE: vision tokens that the text looks at and cannot explain, each unlike those chosen before it.

Paper: ou2026sieve, of which the abstract and summaries could be read; no code is released. Symbols: V_c, T_c → centred
vision and text tokens; G → the text's Gram matrix; η → `energy`; H_top → `heads`; a → relevance; CMR → unexplained
share; K → `tokens`.

Departs:
1. The layer that prunes is `layer`, by default 2: which ones the paper takes is not in what was read. T_c are all text
   tokens alive there; the attention is that of the layer before.
2. ε, added to the eigenvalue that λ is, is 1e-6 of the greatest one, so that the scale of the states does not matter.
3. Heads are ranked by what all their rows of the text pay to vision tokens. A vision token that equals the mean of all
   has an unexplained share of 0. Of equal scores the earlier token is chosen.
4. The rows of the text are formed, in float32; the paper sums them in a second pass of a fused kernel.

B batch, H heads, R rows of the text, T text tokens, V vision tokens, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def residual(vision_BVD: Tensor, text_BTD: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Centred vision tokens (B, V, D), and what of each the text's span leaves unexplained, float32 at least.

    Ridge regression on the centred text tokens: v̂ = v T_cᵀ (G + λI)⁻¹ T_c with G = T_c T_cᵀ. λ is the eigenvalue of G
    with which the greatest ones reach the share `energy` of their sum.

    Args:
        vision_BVD: states of the vision tokens.
        text_BTD: states of the text tokens, one at least.
        energy: η, in (0, 1].
    """
    dtype = torch.promote_types(vision_BVD.dtype, torch.float32)
    vision_BVD, text_BTD = (x.to(dtype) - x.to(dtype).mean(dim=1, keepdim=True) for x in (vision_BVD, text_BTD))
    gram_BTT = text_BTD @ text_BTD.mT
    value_BT = torch.linalg.eigvalsh(gram_BTT).flip(-1).clamp(min=0)
    reached_BT = value_BT.cumsum(dim=-1) >= energy * value_BT.sum(dim=-1, keepdim=True) * (1 - 1e-6)
    ridge_B1 = value_BT.gather(1, reached_BT.long().argmax(dim=-1, keepdim=True)) + 1e-6 * value_BT[:, :1]
    # Where all text tokens are equal nothing is explained, whatever the ridge.
    ridge_B1 = ridge_B1.where(ridge_B1 > 0, torch.ones_like(ridge_B1))
    ridged_BTT = gram_BTT + torch.diag_embed(ridge_B1.expand_as(value_BT))
    weight_BTV = torch.linalg.solve(ridged_BTT, text_BTD @ vision_BVD.mT)
    return vision_BVD, vision_BVD - weight_BTV.mT @ text_BTD


def unexplained(vision_BVD: Tensor, residual_BVD: Tensor) -> Tensor:
    """CMR (B, V): the length of the residual over that of the token, 0 for a zero vector."""
    length_BV = vision_BVD.norm(dim=-1)
    share_BV: Tensor = residual_BVD.norm(dim=-1) / length_BV.where(length_BV > 0, 1)
    return share_BV


def relevance(row_BHRV: Tensor, heads: int) -> Tensor:
    """Relevance (B, V): what the text pays to each vision token, summed over its rows in the heads that pay most.

    Args:
        row_BHRV: softmax rows of the text, columns of the vision tokens.
        heads: how many heads count.
    """
    paid_BHV = row_BHRV.sum(dim=2)
    counts_BH = top_mask(paid_BHV.sum(dim=-1), min(heads, paid_BHV.shape[1]))
    return (paid_BHV * counts_BH[..., None]).sum(dim=1)


def select_unlike(score_BV: Tensor, residual_BVD: Tensor, keep: int) -> Tensor:
    """Places (B, K) in the order of choice: the best score each time, those of the others times 1 − cos² to the choice.

    Args:
        score_BV: at least 0.
        residual_BVD: what cosines are taken of.
        keep: K, at most V.
    """
    unit_BVD = unit(residual_BVD)
    chosen, free_BV = [], torch.ones_like(score_BV, dtype=torch.bool)
    for _ in range(keep):
        pick_B1 = score_BV.masked_fill(~free_BV, -1).argmax(dim=1, keepdim=True)
        free_BV = free_BV.scatter(1, pick_B1, value=False)
        cosine_BV = (unit_BVD @ take(unit_BVD, pick_B1).mT)[..., 0]
        score_BV = score_BV * (1 - cosine_BV**2).clamp(min=0)
        chosen.append(pick_B1)
    return torch.cat(chosen, dim=1)


@dataclass(frozen=True)
class Sieve(Technique):
    """At `llm-layer`: leaves `tokens` vision tokens from `layer` on; they keep their position ids.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens: int = 64
    layer: int = 2
    """The first layer that runs on the kept tokens."""
    energy: float = 0.75
    heads: int = 12

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("attention-row", "visual-features", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name in ("tokens", "layer", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must lie in (0, 1], got {self.energy}")

    def begin(self, run: Run) -> Sieve:
        """Itself.

        Raises:
            Refusal: the LLM has no layer of that index, so that nothing would ever be pruned.
        """
        last = run.config.text.num_hidden_layers - 1
        if self.layer > last:
            raise Refusal(f"layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.layer}")
        return self

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer from layer `layer` on.

        Raises:
            Refusal: there is no text among them, as where frames of a session are read before the question.
        """
        sequence, attention = at.sequence, at.sequence.attention
        if at.layer != self.layer or attention is None:
            return sequence
        place_BV, text_BT = sequence.vision_places(), places_of(~sequence.vision_BN)
        if place_BV.shape[1] <= self.tokens:
            return sequence
        if not text_BT.shape[1]:
            raise Refusal("SIEVE chooses by the text, and these frames come without any; give both together")
        x_BND = sequence.hidden_BND
        vision_BVD, residual_BVD = residual(take(x_BND, place_BV), take(x_BND, text_BT), self.energy)
        row_BHRN = attention.rows(text_BT[0])
        row_BHRV = row_BHRN.gather(3, place_BV[:, None, None].expand(*row_BHRN.shape[:3], -1))
        score_BV = (relevance(row_BHRV, self.heads) * unexplained(vision_BVD, residual_BVD)) ** 2
        chosen_BK = select_unlike(score_BV, residual_BVD, self.tokens)
        return sequence.keep_vision(places_of(mask_of(chosen_BK, place_BV.shape[1])))
