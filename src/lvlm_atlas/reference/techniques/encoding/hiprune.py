"""HiPrune: what a middle encoder layer attends to most, its neighbours, and what the last layer attends to most.

Paper: liu2025hiprune, sec. 4.1 to 4.3, Eq. (2) to (8); code: Danielement321/HiPrune, LLaVA/llava/model/llava_arch.py
(`encode_images`).

Symbols: budget N′ → tokens, α → alpha, object layer l → object_layer (counted from 1), a^[l] → object_FN, a^[-1] →
deep_FN, anchors and buffers → cross_FN, registers: what fills up the budget.

Departs:
1. `tokens` is the budget of each frame or tile; the code takes one for all tiles, and gives each ⌊N′ / tiles⌋.
2. Where the budget reaches the number of patches nothing is touched; the code drops nothing either, but takes a tiled
   image's newlines away.
3. Where anchors and buffers are more than the budget, those with most attention in the last layer stay; the code
   fails there.
4. What is dropped does not pass the adapter; the code projects all patches and drops them afterwards. The tokens are
   the same, for the adapter takes each patch on its own.
5. Of equal attention the earlier patch is kept; the code's `topk` leaves that open. Attention is a float32 softmax; the
   code's has the type of the weights.
6. The form for Qwen2.5-VL, which scores groups of patches behind the merger, and HiPrune++ are not here.

F frames, N patches without the class token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.received import received_attention
from lvlm_atlas.reference.ops.places import mask_of
from lvlm_atlas.reference.ops.selection import ranking, top_places
from lvlm_atlas.reference.refusal import Refusal


def anchors_of(tokens: int, alpha: float) -> int:
    """Anchors of a budget: each stands for itself and four neighbours; halves are rounded to the even number."""
    return round(tokens * alpha / 5)


def cross(anchor_FA: Tensor, patches: int) -> Tensor:
    """True (F, N) at the anchors and at those before, behind, above and below them.

    As in the code, the neighbours of a place are one and a row away in the order of the image: at the end of a row they
    lie in the next one, and what would lie outside is the first or the last patch.

    Args:
        anchor_FA: places of the anchors.
        patches: N, a square.
    """
    steps = (0, -1, 1, -math.isqrt(patches), math.isqrt(patches))
    near_FC = torch.cat([anchor_FA + step for step in steps], dim=1).clamp(0, patches - 1)
    return mask_of(near_FC, patches)


def hiprune(object_FN: Tensor, deep_FN: Tensor, tokens: int = 192, alpha: float = 0.1) -> Tensor:
    """Places (F, K) of the kept patches, ascending; K = min(`tokens`, N).

    Args:
        object_FN: attention that each patch receives in the object layer.
        deep_FN: the same in the last layer.
        tokens: patches to keep.
        alpha: share of them for anchors and their neighbours.
    """
    anchor_FA = ranking(object_FN)[:, : anchors_of(tokens, alpha)]
    return top_places(deep_FN, min(tokens, deep_FN.shape[1]), first=cross(anchor_FA, object_FN.shape[1]))


@dataclass(frozen=True)
class HiPrune(Technique):
    """At `encoder-layer` it reads the object layer's attention, at `encoder-output` it leaves `tokens` of each frame.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens: int = 192
    alpha: float = 0.1
    object_layer: int = 9

    acts_at: ClassVar = ("encoder-layer", "encoder-output")
    needs: ClassVar = ("encoder-attention", "free-patches", "whole-grid")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens", "object_layer")
        self.expect_shares("alpha")

    def begin(self, run: Run) -> Choosing:  # noqa: ARG002 - it needs to know nothing of the run
        """What acts in a run."""
        return Choosing(self)


@dataclass
class Choosing:
    """HiPrune, and the scores of the object layer for the frames that are encoded now."""

    setting: HiPrune
    object_FN: Tensor | None = None

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches as they are.

        Raises:
            Refusal: the encoder runs fewer layers than `object_layer`, or the layer's attention is not there.
        """
        setting, patches = self.setting, at.patches
        count = patches.hidden_FND.shape[1] - patches.prefix
        if setting.tokens >= count or not anchors_of(setting.tokens, setting.alpha):
            return patches
        if setting.object_layer > at.layers:
            raise Refusal(
                f"HiPrune reads layer {setting.object_layer} of an encoder that runs {at.layers}; lower `object_layer`"
            )
        if at.layer == setting.object_layer - 1:
            self.object_FN = received_attention(patches, "HiPrune")
        return patches

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches, without the class token, and without attention that would count on it.

        Raises:
            Refusal: patches do not form the whole square that the neighbours are counted on, or come without attention.
        """
        setting, patches = self.setting, at.patches
        count = patches.hidden_FND.shape[1] - patches.prefix
        if setting.tokens >= count:
            return patches
        deep_FN = received_attention(patches, "HiPrune")
        object_FN = deep_FN if self.object_FN is None else self.object_FN
        if object_FN.shape != deep_FN.shape or math.isqrt(count) ** 2 != count or patches.size_FN is not None:
            raise Refusal(
                f"HiPrune counts neighbours on the whole square of patches, and here are {count} that an earlier "
                f"technique merged or left; leave it out"
            )
        kept_FK = hiprune(object_FN, deep_FN, setting.tokens, setting.alpha)
        return replace(patches.keep(patches.prefix + kept_FK), prefix=0, attention=None)
