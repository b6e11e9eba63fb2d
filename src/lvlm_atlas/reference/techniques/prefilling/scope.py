"""SCOPE: salient patches, each of which adds much to what those chosen before it cover.

Paper: deng2025scope; code: kinredon/SCOPE, scope/clip_encoder.py (`SCOPE`, `CLIPVisionTower_SCOPE`).

Symbols: `token_num` → `tokens`, ALPHA → `alpha`, COMBINED → `combine` (multi → multiply), `cur_max` → the cover.

Departs:
1. `tokens` holds for each frame or tile; the code divides it among those that are encoded together, rounding down.
2. Where it reaches the number of patches nothing is touched; the code keeps all at it, and above it picks the first
   patch again and again.
3. Cosines, gains and attention are in float32; the code's have the type of the weights. Of equal values the earlier
   patch is picked. A zero vector resembles nothing; the code divides by its length.

F frames, H heads, N patches without the class token, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.class_token import class_attention, expect_class_token
from lvlm_atlas.reference.ops.diversity import greedy_cover
from lvlm_atlas.reference.ops.similarity import unit


def scope(
    x_FND: Tensor, cls_attention_FHN: Tensor, tokens: int, alpha: float = 1.0, combine: str = "multiply"
) -> Tensor:
    """Places (F, K) of the kept patches of each frame, in the order of choice; K = min(`tokens`, N).

    Args:
        x_FND: features of the patches, float32 or wider.
        cls_attention_FHN: what the class token pays to each patch. Its sum over heads is the saliency.
        tokens: patches to keep.
        alpha: power of the saliency; 0 counts coverage alone, unless saliency is added.
        combine: how saliency and the gain in coverage become one score: `multiply` or `add`.
    """
    unit_FND = unit(x_FND)
    saliency_FN = cls_attention_FHN.sum(dim=1) ** alpha
    return greedy_cover(unit_FND @ unit_FND.mT, saliency_FN, min(tokens, x_FND.shape[1]), add=combine == "add")


@dataclass(frozen=True)
class Scope(Technique):
    """At `encoder-output`: leaves `tokens` patches of each frame or tile, in the order of the image.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens: int = 64
    alpha: float = 1.0
    combine: str = "multiply"

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("encoder-attention", "cls-token", "visual-features", "free-patches")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens")
        self.expect_at_least(0, "alpha")
        if self.combine not in ("multiply", "add"):
            raise ValueError(f"combine must be multiply or add, got {self.combine!r}")

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches, without the class token, and without attention that would count on it.

        Raises:
            Refusal: there is not one class token, or an earlier technique left no attention.
        """
        patches = at.patches
        expect_class_token(patches, "SCOPE")
        if self.tokens >= patches.hidden_FND.shape[1] - 1:
            return patches
        attention_FHN = class_attention(patches, "SCOPE")
        chosen_FK = scope(patches.hidden_FND[:, 1:].float(), attention_FHN, self.tokens, self.alpha, self.combine)
        return replace(patches.keep(1 + chosen_FK.sort(dim=1).values), prefix=0, attention=None)
