"""SparseVILA, its first half: a share of the patches dropped before the LLM, by the attention that sums up the image.

Paper: khaki2025sparsevila; no code of the authors is public, and the full text was not at hand. What stands here
follows the abstract and summaries of the paper: the class token's attention where there is one, the mean over several
summary tokens, else what all tokens pay on average.

Symbols: prefill sparsity → sparsity.

Departs:
1. The other half, which chooses for each question the cached vision tokens that decoding reads, is not here.
2. How a share becomes a number is not known: round((1 − sparsity) · N) patches stay, halves to the even number, and one
   at least.
3. Which layer's attention counts is not known: it is that of the last one that runs, whose output is used.
4. Every row that is read is formed; the paper's kernel adds columns up block by block and forms none.
5. Models whose adapter joins patches are refused, though the paper runs Qwen2.5-VL too.

F frames, H heads, N patches without the P summary tokens in front, K kept.
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


def kept_count(patches: int, sparsity: float) -> int:
    """Patches that stay."""
    return max(1, round(patches * (1 - sparsity)))


def salience(rows_FHRN: Tensor) -> Tensor:
    """Scores (F, N): what R query rows pay to each patch, mean over rows and heads.

    The rows are those of the summary tokens, the class token's alone for CLIP, several for RADIO; where an encoder has
    none, as SigLIP's, they are the rows of all patches.
    """
    return rows_FHRN.mean(dim=(1, 2))


def sparsevila(salience_FN: Tensor, sparsity: float = 0.6) -> Tensor:
    """Places (F, K) of the patches of highest salience, ascending."""
    return top_places(salience_FN, kept_count(salience_FN.shape[1], sparsity))


@dataclass(frozen=True)
class SparseVILA(Technique):
    """At `encoder-output`: drops a share of the patches of each frame or tile.

    Raises:
        ValueError: `sparsity` lies outside its range.
    """

    sparsity: float = 0.6

    acts_at: ClassVar = ("encoder-output",)
    needs: ClassVar = ("encoder-attention", "cls-token", "free-patches")
    withholds: ClassVar = ("cls-token", "whole-grid")

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The kept patches, without the class token, and without attention that would count on it.

        Raises:
            Refusal: there is not one class token, or an earlier technique left no attention.
        """
        patches = at.patches
        expect_class_token(patches, "SparseVILA")
        count = patches.hidden_FND.shape[1] - 1
        if kept_count(count, self.sparsity) >= count:
            return patches
        kept_FK = sparsevila(salience(class_attention(patches, "SparseVILA")[:, :, None]), self.sparsity)
        return replace(patches.keep(1 + kept_FK), prefix=0, attention=None)
