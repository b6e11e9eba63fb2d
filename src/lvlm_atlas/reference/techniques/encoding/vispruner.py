"""VisPruner: the patches that the class token attends to most, and of the others those that resemble each other least.

Paper: zhang2025vispruner; code: Theia-4869/VisPruner, llava/model/llava_arch.py (`encode_images`).

Symbols: T → tokens, r → important_ratio, T_imp → important, T_div → what is left of T; the step of 8 is the code's.

Departs:
1. An odd number of residual patches is split too, the first half being one longer; the code fails there. A round drops
   no more than half of what it finds; the code fails where less than 2 · step are left and more than half must go.
2. Where T reaches the number of patches nothing is touched; the code drops nothing either, but takes a tiled image's
   newlines away.
3. What is dropped does not pass the adapter; the code projects all patches and drops them afterwards. The tokens are
   the same, for the adapter takes each patch on its own.
4. Of equal attention the earlier patch comes first, of equal similarity the one earlier in its half; the code's
   `argsort` leaves that open. Attention is a float32 softmax; the code's has the type of the weights.

B batch (frames), H heads, N patches without the class token, R residual patches, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.class_token import class_attention, expect_class_token
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.selection import ranking
from lvlm_atlas.reference.ops.similarity import unit


def remove_duplicates(x_BRD: Tensor, keep: int, step: int = 8) -> Tensor:
    """Places (B, `keep`) of the tokens left after rounds in which those most like another one are dropped.

    In each round every other token, from the first on, is compared with all those between, and the `step` with the most
    similar partner go. Those of the first half that stay come by falling similarity in the next round, then the others.

    Args:
        x_BRD: the tokens, in the order in which the first round splits them.
        keep: tokens to leave, from 0 to R.
        step: tokens to drop in a round, if that many are too many and half of them suffices.

    Raises:
        ValueError: `keep` lies outside that range.
    """
    batch, left = x_BRD.shape[:2]
    if not 0 <= keep <= left:
        raise ValueError(f"keep must be in 0..{left} (the tokens), got {keep}")
    place_BP = torch.arange(left, device=x_BRD.device).expand(batch, left)
    if not keep:
        return place_BP[:, :0]
    unit_BRD = unit(x_BRD)
    while left > keep:
        first_BE, second_BO = place_BP[:, ::2], place_BP[:, 1::2]
        likeness_BE = (take(unit_BRD, first_BE) @ take(unit_BRD, second_BO).mT).amax(dim=2)
        drop = min(step, left - keep, left // 2)
        stay_BK = first_BE.gather(1, ranking(likeness_BE)[:, drop:])
        place_BP = torch.cat([stay_BK, second_BO], dim=1)
        left -= drop
    return place_BP


def vispruner(
    cls_attention_BHN: Tensor, x_BND: Tensor, tokens: int = 128, important_ratio: float = 0.5, step: int = 8
) -> Tensor:
    """Places (B, K) of the kept patches, ascending; K = min(`tokens`, N).

    Args:
        cls_attention_BHN: what the class token pays to each patch; its own column is cut off, what is left sums to less
            than 1.
        x_BND: features of the patches.
        tokens: patches to keep.
        important_ratio: the share of them that attention decides, ⌊`tokens` · `important_ratio`⌋ of them.
        step: see `remove_duplicates`.
    """
    keep = min(tokens, x_BND.shape[1])
    important = int(keep * important_ratio)
    order_BN = ranking(cls_attention_BHN.mean(dim=1))
    residual_BR = order_BN[:, important:]
    diverse_BK = remove_duplicates(take(x_BND, residual_BR), keep - important, step)
    return torch.cat([order_BN[:, :important], residual_BR.gather(1, diverse_BK)], dim=1).sort(dim=1).values


@dataclass(frozen=True)
class VisPruner(Technique):
    """At `encoder-output`: leaves `tokens` patches of each frame or tile, in the order of the image.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens: int = 128
    important_ratio: float = 0.5
    step: int = 8

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("encoder-attention", "cls-token", "visual-features", "free-patches")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens", "step")
        self.expect_shares("important_ratio")

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches, without the class token, and without attention that would count on it.

        Raises:
            Refusal: there is not one class token, or an earlier technique left no attention.
        """
        patches = at.patches
        expect_class_token(patches, "VisPruner")
        if self.tokens >= patches.hidden_FND.shape[1] - 1:
            return patches
        attention_FHN = class_attention(patches, "VisPruner")
        kept_FK = vispruner(attention_FHN, patches.hidden_FND[:, 1:], self.tokens, self.important_ratio, self.step)
        return replace(patches.keep(1 + kept_FK), prefix=0, attention=None)
