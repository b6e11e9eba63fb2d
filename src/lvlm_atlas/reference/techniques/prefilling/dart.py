"""DART: a few pivot tokens, and for each of them the vision tokens that duplicate it least.

Paper: wen2025dart; code: ZichenWen1/DART, Qwen2-VL/Qwen2VL_DART/modeling_qwen2_vl_self.py (`get_retained_image_token`).

Symbols: K → `layer`, `reduction_ratio` → `reduction`, `pivot_image_token` → `image_pivots`, `pivot_text_token` →
`text_pivots`, `TOKEN_TOPK` → each.

Departs:
1. Pivots take their turn by place, those of the image first; the code goes through a Python set, whose order of whole
   numbers is that of a hash table. Of equal norms and of equal cosines the earlier token counts; its `topk` leaves
   that open.
2. Where fewer candidates are left than a pivot may take, it takes them all; the code fails there.
3. Vision tokens may stand anywhere in the prompt, and the text of which pivots are taken is what follows the last of
   them; the code is told the start and length of one span.
4. The number kept follows from a share, as in the code for Qwen2-VL and Qwen2.5-VL; that for LLaVA has a fixed number,
   `max_num_trunction`, in place of the share and divides it by the number of pivots in the same way.
5. Beside another technique that acts between LLM layers it is refused: a pivot's part is counted from the tokens that
   entered the LLM.

B batch, N tokens, V vision tokens, P pivots, I of them vision tokens, T text, K kept, G key-value heads, S keys,
d head dimension, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.between_layers import expect_alone
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.refusal import Refusal


def key_size(attention: Probe) -> Tensor:
    """The sum of the sizes of each token's rotated keys, all heads together: (B, N), float32."""
    key_BGSd = attention.key_BGNd[:, :, attention.cached :]
    return attention.now(key_BGSd.float().abs().sum(dim=(1, 3)))


def each_takes(tokens: int, reduction: float, pivots: int) -> int:
    """Tokens that each pivot takes: an equal part of the share that stays, rounded down."""
    return int(tokens * (1 - reduction) / pivots)


def least_alike(x_BND: Tensor, pivot_BP: Tensor, free_BN: Tensor, each: int) -> Tensor:
    """True (B, N) at what the pivots take, one after the other, of the free tokens.

    A pivot takes the `each` tokens of smallest cosine with it that are still free, all of them if fewer are.

    Args:
        x_BND: hidden states.
        pivot_BP: places of the pivots, in their order.
        free_BN: True at what may be taken, equally many in each row.
        each: how many a pivot takes.
    """
    unit_BND, taken_BN = unit(x_BND), torch.zeros_like(free_BN)
    left = int(free_BN[0].sum())
    for place_B1 in pivot_BP.split(1, dim=1):
        cosine_BN = (unit_BND @ take(unit_BND, place_B1).mT)[..., 0]
        may_BN = free_BN & ~taken_BN
        pick_BK = top_places(-cosine_BN.masked_fill(~may_BN, float("inf")), min(each, left))
        taken_BN = taken_BN | mask_of(pick_BK, taken_BN.shape[1])
        left -= pick_BK.shape[1]
    return taken_BN


def dart(
    x_BND: Tensor, size_BN: Tensor, place_BV: Tensor, reduction: float, image_pivots: int, text_pivots: int
) -> Tensor:
    """Ranks (B, K), ascending, of the vision tokens that stay: the image's pivots, and what all pivots take.

    Args:
        x_BND: hidden states under the final norm.
        size_BN: what the pivots are chosen by, the greatest first.
        place_BV: places of the vision tokens, ascending.
        reduction: share of the vision tokens that is to go.
        image_pivots: pivots among the vision tokens, all of these if there are fewer.
        text_pivots: pivots among the tokens behind the last vision token, which are there.
    """
    image_BI = top_places(size_BN.gather(1, place_BV), min(image_pivots, place_BV.shape[1]))
    first_text = int(place_BV[:, -1].max()) + 1
    text_BT = first_text + top_places(size_BN[:, first_text:], text_pivots)
    vision_BN = mask_of(place_BV, x_BND.shape[1])
    own_BN = mask_of(place_BV.gather(1, image_BI), x_BND.shape[1])
    pivot_BP = torch.cat([place_BV.gather(1, image_BI), text_BT], dim=1)
    each = each_takes(place_BV.shape[1], reduction, image_pivots + text_pivots)
    kept_BN = own_BN | least_alike(x_BND, pivot_BP, vision_BN & ~own_BN, each)
    return places_of(kept_BN.gather(1, place_BV))


@dataclass(frozen=True)
class Dart(Technique):
    """Prunes once, before layer `layer`; kept tokens keep their position ids.

    Raises:
        ValueError: an argument lies outside its range.
    """

    layer: int = 2
    """The first layer that runs on the kept tokens; its predecessor's keys choose the pivots."""
    reduction: float = 0.778
    """Share of the vision tokens that is to go, before rounding and without the image's pivots."""
    image_pivots: int = 4
    text_pivots: int = 4

    acts_at: ClassVar = ("llm-layer",)
    needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name, least in (("layer", 1), ("image_pivots", 1), ("text_pivots", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.reduction < 1:
            raise ValueError(f"reduction must lie in [0, 1), got {self.reduction}")

    def begin(self, run: Run) -> Pruning:
        """What acts in a run.

        Raises:
            Refusal: the LLM has no layer of that index, so that nothing would ever be pruned, or another technique may
                drop tokens between its layers.
        """
        expect_alone(run, self, "DART keeps a share of the tokens that entered the LLM")
        last = run.config.text.num_hidden_layers - 1
        if self.layer > last:
            raise Refusal(f"layer must be in 1..{last} for an LLM of {last + 1} layers, got {self.layer}")
        return Pruning(self, run)


@dataclass(frozen=True)
class Pruning:
    """DART with the run, whose model has the final norm."""

    setting: Dart
    run: Run

    def llm_layer(self, at: LlmLayer) -> Sequence:
        """The tokens, fewer from layer `layer` on.

        Raises:
            Refusal: too little text follows the last vision token.
        """
        setting, sequence, attention = self.setting, at.sequence, at.sequence.attention
        if at.layer != setting.layer or attention is None:
            return sequence
        place_BV = sequence.vision_places()
        if not place_BV.shape[1]:
            return sequence
        behind = sequence.length - 1 - int(place_BV[:, -1].max())
        if behind < setting.text_pivots:
            raise Refusal(
                f"DART takes {setting.text_pivots} pivots from the text behind the last vision token, which has "
                f"{behind} tokens; lower text_pivots or let the question follow the image"
            )
        x_BND = self.run.target.final_norm(sequence.hidden_BND)
        pivots = (setting.image_pivots, setting.text_pivots)
        return sequence.keep_vision(dart(x_BND, key_size(attention), place_BV, setting.reduction, *pivots))
