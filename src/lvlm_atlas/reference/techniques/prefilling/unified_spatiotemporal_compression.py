"""Unified spatiotemporal compression: one pool for all tokens of a video, and a second thinning by the question.

Paper: du2026ustc, of which the abstract and notes with equations 1–9 could be read; no code is released. Symbols: A_h →
contribution; S → likeness to the pool; τ → `similarity`; ρ, δ, γ → `ops.clustering.density_peaks`; cluster ratio →
`recycled`; I(v) → importance; λ → `balance`; K → `layer`; R → `inner_ratio`.

Departs:
1. A token's contribution is the mean over all rows of what it gets in its head of greatest attention, where an encoder
   has a class token too. Patches are averaged over the grid where tokens are fewer.
2. The pool takes tokens by falling contribution until its share of the budget is full, and passes over those that are
   too like one in it. What is left of the budget are clusters of all others, so that the budget is met exactly.
3. A cluster becomes the plain mean of its tokens, at the place of its centre. Neighbours of a density are 5, ours.
4. What the text attends to is read behind the vision tokens, mean over heads; likeness is that of states at the layer.
   Both are stretched to [0, 1]. What goes is averaged, with equal weights, into the kept token most like it.
5. Of equal numbers the earlier token counts.

F frames, H heads, P patches, V vision tokens of the video, K kept, Q of them in the pool, C clusters, M that go, R rows
of the text, T text tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches, Sequence
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput, LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.modules.received import pooled
from lvlm_atlas.reference.ops.clustering import density_peaks, knn_density, scaled_distance
from lvlm_atlas.reference.ops.places import mask_of, places_of
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal

_NEIGHBOURS = 5
_NAME = "unified compression"


def pool(x_VD: Tensor, contribution_V: Tensor, size: int, similarity: float) -> Tensor:
    """Places (Q,) in the order of choice, Q ≤ `size`: the highest contribution of those unlike all in the pool (eq. 2).

    Args:
        x_VD: the tokens.
        contribution_V: what each contributes.
        size: tokens that the pool takes at most.
        similarity: τ; a token joins only if its cosine with each in the pool is below.
    """
    unit_VD = unit(x_VD.float())
    free_V = torch.ones(len(x_VD), dtype=torch.bool, device=x_VD.device)
    chosen: list[Tensor] = []
    for _ in range(size):
        if not bool(free_V.any()):
            break
        pick = contribution_V.masked_fill(~free_V, float("-inf")).argmax()
        free_V = free_V & (unit_VD @ unit_VD[pick] < similarity)
        free_V = free_V.scatter(0, pick[None], value=False)
        chosen.append(pick)
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.long, device=x_VD.device)


def compress(
    x_VD: Tensor, contribution_V: Tensor, budget: int, similarity: float, recycled: float
) -> tuple[Tensor, Tensor]:
    """Places (K,), ascending, and tokens (K, D) left of a video; K = min(`budget`, V) (eqs. 1–4).

    Args:
        x_VD: all tokens of the video.
        contribution_V: what each contributes.
        budget: tokens to leave.
        similarity: see `pool`.
        recycled: share of the budget that are clusters of what the pool did not take.
    """
    budget = min(budget, len(x_VD))
    pooled_Q = pool(x_VD, contribution_V, budget - round(budget * recycled), similarity)
    kept_V = mask_of(pooled_Q, len(x_VD))
    count = budget - len(pooled_Q)
    out_VD = x_VD
    if count:
        other_M = places_of(~kept_V)
        other_1MD = x_VD[other_M][None].float()
        distance_1MM = scaled_distance(other_1MD)
        centre_1C, matching = density_peaks(distance_1MM, knn_density(distance_1MM, _NEIGHBOURS), count)
        mean_CD = (matching.merge(other_1MD) / matching.merge(torch.ones_like(other_1MD[..., :1])))[0]
        centre_C = other_M[centre_1C[0]]
        kept_V = kept_V.scatter(0, centre_C, value=True)
        out_VD = x_VD.index_copy(0, centre_C, mean_CD.to(x_VD.dtype))
    place_K = places_of(kept_V)
    return place_K, out_VD[place_K]


def importance(row_HRV: Tensor, vision_VD: Tensor, text_TD: Tensor, balance: float) -> Tensor:
    """I(v) (V,): (1 − λ) · greatest attention of the text + λ · greatest cosine with it, each stretched (eq. 9).

    Args:
        row_HRV: softmax rows of the text, columns of the vision tokens.
        vision_VD: states of the vision tokens.
        text_TD: states of the text.
        balance: λ.
    """
    paid_V = row_HRV.mean(dim=0).amax(dim=0)
    cosine_V = (unit(vision_VD.float()) @ unit(text_TD.float()).mT).amax(dim=1)
    return (1 - balance) * _stretched(paid_V) + balance * _stretched(cosine_V)


def merged_into(x_VD: Tensor, kept_V: Tensor) -> Tensor:
    """The kept tokens (K, D), each averaged with those of the others that are most like it."""
    kept_KD, gone_MD = x_VD[kept_V].float(), x_VD[~kept_V].float()
    into_MK = functional.one_hot((unit(gone_MD) @ unit(kept_KD).mT).argmax(dim=1), len(kept_KD)).to(kept_KD)
    return ((kept_KD + into_MK.mT @ gone_MD) / (1 + into_MK.sum(dim=0))[:, None]).to(x_VD.dtype)


def _stretched(x_V: Tensor) -> Tensor:
    span = x_V.max() - x_V.min()
    return (x_V - x_V.min()) / span.where(span > 0, torch.ones_like(span))


@dataclass(frozen=True)
class UnifiedCompression(Technique):
    """Thins out a video before the LLM, and merges once more before its layer `layer`.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    keep_ratio: float = 0.05
    """Share of the vision tokens that enters the LLM."""
    similarity: float = 0.7
    recycled: float = 0.3
    layer: int = 18
    """The first layer that runs on the tokens merged inside the LLM."""
    inner_ratio: float = 0.5
    """Share of them that is left there."""
    balance: float = 0.5

    acts_at: ClassVar = ("encoder-output", "adapter-output", "llm-layer")
    needs: ClassVar = (
        "encoder-attention", "free-patches", "visual-features", "modality-mask", "vision-in-sequence", "whole-grid",
        "equal-frames", "frames-apart", "attention-row",
    )  # fmt: skip
    withholds: ClassVar = ("whole-grid", "equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        for name in ("keep_ratio", "inner_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        for name in ("recycled", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not -1 <= self.similarity <= 1:
            raise ValueError(f"similarity must lie in [-1, 1], got {self.similarity}")
        if self.layer < 1:
            raise ValueError(f"layer must be at least 1, got {self.layer}")

    def begin(self, run: Run) -> Compressing:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no layer of that index, or another technique may drop tokens between its layers.
        """
        expect_alone(run, self, f"{_NAME} merges a share of the tokens that entered the LLM")
        last = run.config.text.num_hidden_layers - 1
        if self.layer > last:
            raise Refusal(f"layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.layer}")
        return Compressing(self)


@dataclass
class Compressing:
    """The technique in one run."""

    setting: UnifiedCompression
    patches: Patches | None = None
    """Those of the frames encoded last."""

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The patches as they are, and noted."""
        self.patches = at.patches
        return at.patches

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The frames with fewer tokens, some perhaps with none, without places in the grid; tiled images as they are.

        Raises:
            Refusal: frames have different numbers of tokens, or patches come without attention.
        """
        tokens, patches, setting = at.tokens, self.patches, self.setting
        if patches is None or len(tokens.blocks) != len(patches.hidden_FND) or setting.keep_ratio == 1:
            return tokens
        if len({*tokens.lengths}) > 1:
            raise Refusal(f"{_NAME} rates frames of equally many tokens, got {[*tokens.lengths]}; leave one out")
        each = tokens.lengths[0]
        x_VD = torch.cat([block.token_ND for block in tokens.blocks])
        contribution_V = pooled(_contribution(patches), each, _NAME).flatten()
        budget = max(1, int(len(x_VD) * setting.keep_ratio + 1e-9))
        place_K, left_KD = compress(x_VD, contribution_V, budget, setting.similarity, setting.recycled)
        counts = (place_K // each).bincount(minlength=len(tokens.blocks)).tolist()
        return replace(tokens, blocks=tuple(map(Block, left_KD.split(counts))))

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, merged before layer `layer`.

        Raises:
            Refusal: no text stands behind the vision tokens.
        """
        sequence, attention, setting = at.sequence, at.sequence.attention, self.setting
        if at.layer != setting.layer or attention is None:
            return sequence
        place_V, text_T = sequence.vision_places()[0], places_of(~sequence.vision_BN)[0]
        behind_R = text_T[text_T > place_V[-1]] if len(place_V) else text_T[:0]
        keep = round(len(place_V) * setting.inner_ratio)
        if keep in (0, len(place_V)):
            return sequence.keep_vision(torch.arange(keep, device=place_V.device)[None])
        if not len(behind_R):
            raise Refusal(f"{_NAME} rates tokens by the text behind them, of which there is none; ask behind the video")
        x_VD = sequence.hidden_BND[0, place_V]
        row_HRV = attention.rows(behind_R)[0][..., place_V]
        kept_K = top_places(importance(row_HRV, x_VD, sequence.hidden_BND[0, text_T], setting.balance), keep)
        kept_V = mask_of(kept_K, len(place_V))
        hidden_BND = sequence.hidden_BND.index_copy(1, place_V[kept_V], merged_into(x_VD, kept_V)[None])
        return replace(sequence, hidden_BND=hidden_BND).keep_vision(kept_K[None])


def _contribution(patches: Patches) -> Tensor:
    """What each patch gets (F, P), float32, in its best head, on average over all rows.

    Raises:
        Refusal: an earlier technique left no attention.
    """
    if patches.attention is None:
        raise Refusal(f"{_NAME} reads the encoder's attention, which these patches come without")
    return patches.attention.rows().mean(dim=2).amax(dim=1)[:, patches.prefix :]
