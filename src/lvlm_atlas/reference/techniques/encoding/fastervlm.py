"""FasterVLM: the patches that the class token attends to most.

Paper: zhang2024fastervlm; code: Theia-4869/FasterVLM, llava/model/llava_arch.py (`encode_images`) and
llava/model/multimodal_encoder/clip_encoder.py (`feature_select`).

Symbols: T → tokens, class attention → cls_attention_BHN.

Departs:
1. Where T reaches the number of patches nothing is touched; the code fails beyond that, and takes a tiled image's
   newlines away.
2. What is dropped does not pass the adapter; the code projects all patches and drops them afterwards. The tokens are
   the same, for the adapter takes each patch on its own.
3. Of equal attention the earlier patch is kept; the code's `topk` leaves that open. Attention is a float32 softmax; the
   code's has the type of the weights.

B batch (frames), H heads, N patches without the class token, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.class_token import class_attention, expect_class_token
from lvlm_atlas.reference.ops.selection import top_places


def fastervlm(cls_attention_BHN: Tensor, tokens: int = 144) -> Tensor:
    """Places (B, K) of the `tokens` patches with most attention, mean over heads, ascending; K = min(`tokens`, N).

    Args:
        cls_attention_BHN: what the class token pays to each patch.
        tokens: patches to keep.
    """
    return top_places(cls_attention_BHN.mean(dim=1), min(tokens, cls_attention_BHN.shape[2]))


@dataclass(frozen=True)
class FasterVLM(Technique):
    """At `encoder-output`: leaves `tokens` patches of each frame or tile, in the order of the image.

    Raises:
        ValueError: `tokens` lies outside its range.
    """

    tokens: int = 144

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("encoder-attention", "cls-token", "free-patches")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens")

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches, without the class token, and without attention that would count on it.

        Raises:
            Refusal: there is not one class token, or an earlier technique left no attention.
        """
        patches = at.patches
        expect_class_token(patches, "FasterVLM")
        if self.tokens >= patches.hidden_FND.shape[1] - 1:
            return patches
        kept_FK = fastervlm(class_attention(patches, "FasterVLM"), self.tokens)
        return replace(patches.keep(1 + kept_FK), prefix=0, attention=None)
