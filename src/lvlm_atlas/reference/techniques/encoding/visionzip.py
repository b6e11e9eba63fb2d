"""VisionZip: the patches that the class token attends to most, and a few tokens that sum up the rest.

Paper: yang2025visionzip; code: dvlab-research/VisionZip, visionzip/clip_encoder.py and main.py.

Symbols: D → dominant (class token included), C → contextual, hidden states → hidden_BND, attention of the class
token → cls_attention_BHN, keys averaged over heads ("metric") → metric_BNd.

Departs:
1. Where D + C reaches the number of tokens, the technique leaves the patches as they are; upstream reorders them at
   equality and fails beyond. `compress` follows upstream at equality and refuses what is beyond.
2. The class token's attention is a float32 softmax; upstream's has the type of the weights.
3. The variant whose adapter is tuned after compression is not here; that for encoders without a class token is
   visionzip-qwen2-5-vl.
4. Of patches with equal attention the earlier one is kept; upstream's `topk` leaves that open.

B batch (frames), N tokens with the class token first, R tokens left over, H heads, d head dimension, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def dominant_mask(cls_attention_BHN: Tensor, dominant: int) -> Tensor:
    """(B, N), True at the class token and at the `dominant` − 1 patches it attends to most, summed over heads.

    Of patches with equal sums the first go in.

    Args:
        cls_attention_BHN: the class token's row of attention, its own column first.
        dominant: tokens to keep, the class token included.
    """
    score_BP = cls_attention_BHN[..., 1:].sum(dim=1)
    kept_BP = top_mask(score_BP, dominant - 1)
    return torch.cat([torch.ones_like(kept_BP[:, :1]), kept_BP], dim=1)


def target_places(tokens: int, contextual: int, device: torch.device) -> Tensor:
    """Places (C,) of the targets among so many tokens: every ⌊R / C⌋-th, from the first on."""
    return torch.arange(0, tokens, max(1, tokens // contextual), device=device)[:contextual]


def contextual_tokens(hidden_BRD: Tensor, metric_BRd: Tensor, contextual: int) -> Tensor:
    """Sum up R tokens in `contextual` ones: (B, R, D) → (B, C, D).

    Targets stand at every ⌊R / C⌋-th place, C of them. Each other token goes to the target with the most similar
    metric, and a target becomes itself *plus* the mean of what went to it.

    Args:
        hidden_BRD: the tokens.
        metric_BRd: what similarity is measured on.
        contextual: tokens to return, at most R.
    """
    tokens, device = hidden_BRD.shape[1], hidden_BRD.device
    target_C = target_places(tokens, contextual, device)
    is_target_R = torch.zeros(tokens, dtype=torch.bool, device=device).index_fill(0, target_C, value=True)
    other_O = is_target_R.byte().argsort(stable=True)[: tokens - len(target_C)]  # in order; nobody counts on the host
    unit_BRd = unit(metric_BRd)
    nearest_BO = (unit_BRd[:, other_O] @ unit_BRd[:, target_C].mT).argmax(dim=2)
    member_BOC = functional.one_hot(nearest_BO, contextual).to(hidden_BRD.dtype)
    count_BC1 = member_BOC.sum(dim=1).clamp(min=1)[..., None]
    return hidden_BRD[:, target_C] + member_BOC.mT @ hidden_BRD[:, other_O] / count_BC1


def compress(
    hidden_BND: Tensor, cls_attention_BHN: Tensor, metric_BNd: Tensor, dominant: int = 191, contextual: int = 30
) -> Tensor:
    """Dominant tokens in their order, class token first, then contextual ones: (B, dominant + contextual, D).

    Args:
        hidden_BND: features, class token first.
        cls_attention_BHN: the class token's row of the same layer's attention.
        metric_BNd: the same layer's keys, averaged over heads.
        dominant: tokens kept as they are, the class token included.
        contextual: tokens made of the others.

    Raises:
        ValueError: there are fewer tokens than asked for.
    """
    tokens = hidden_BND.shape[1]
    if dominant + contextual > tokens:
        raise ValueError(f"dominant + contextual must be at most {tokens}, the tokens, got {dominant} + {contextual}")
    kept_BN = dominant_mask(cls_attention_BHN, dominant)
    kept_BK, rest_BR = places_of(kept_BN), places_of(~kept_BN)
    summed_BCD = contextual_tokens(take(hidden_BND, rest_BR), take(metric_BNd, rest_BR), contextual)
    return torch.cat([take(hidden_BND, kept_BK), summed_BCD], dim=1)


@dataclass(frozen=True)
class VisionZip(Technique):
    """At `encoder-output`: leaves `dominant` + `contextual` tokens of each frame; the class token is one of them.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    dominant: int = 191
    contextual: int = 30

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("encoder-attention", "encoder-keys", "cls-token", "free-patches")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "dominant", "contextual")

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The compressed patches; none of them is dropped on the way to the adapter.

        Raises:
            Refusal: there is not one class token, or an earlier technique left no attention or keys.
        """
        patches = at.patches
        if patches.prefix != 1:
            raise Refusal(f"VisionZip reads the attention of one class token, the encoder has {patches.prefix}")
        if self.dominant + self.contextual >= patches.hidden_FND.shape[1]:
            return patches
        if patches.attention is None or patches.key_FHNd is None:
            raise Refusal("VisionZip reads the encoder's attention and keys, which these patches come without")
        attention_FHN = patches.attention.rows(slice(0, 1))[:, :, 0]
        hidden_FKD = compress(
            patches.hidden_FND, attention_FHN, patches.key_FHNd.mean(1), self.dominant, self.contextual
        )
        # A contextual token has no attention or key of its own, and no place among the patches.
        return Patches(hidden_FKD, prefix=0, place_FN2=self._places(patches, attention_FHN))

    def _places(self, patches: Patches, attention_FHN: Tensor) -> Tensor | None:
        """Row and column of each token that is left, −1 of those that are no patch; None where patches were merged."""
        side = math.isqrt(patches.hidden_FND.shape[1] - 1)
        if patches.size_FN is not None or side**2 != patches.hidden_FND.shape[1] - 1:
            return None
        patch_FK = places_of(dominant_mask(attention_FHN, self.dominant))[:, 1:] - 1
        place_FK2 = torch.stack([patch_FK // side, patch_FK % side], dim=-1)
        return functional.pad(place_FK2, (0, 0, 1, self.contextual), value=-1)
