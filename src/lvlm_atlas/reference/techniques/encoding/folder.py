"""FOLDER: any number of patches merged in the last encoder layer that is used, in rounds that halve at most.

Papers: wang2025folder; ju2024turbo for the score; code: anakin-skywalker-Joseph/Folder, llava/model/folder
(merge.py, patch/folder.py), the complete version.

Symbols: R → r (the code's `r` times the encoder's layers), α → alpha, keys averaged over heads → metric_BNd, a_cls →
cls_attention_BN, S = A Bᵀ − 100 α a_cls → `resisting`.

Departs:
1. `r` counts the tokens to remove of each frame; the code's is a 24th of that, CLIP's layers. What cannot be removed
   any more is not: one patch and the class token are left.
2. The code's guard against few tokens is not here: where a round begins with less than 40 tokens, the code fails.
3. Of equal scores the earlier token is merged; the code's `argsort` leaves that open. Attention is a float32 softmax;
   the code's has the type of the weights.
4. Groups are summed once, over all rounds; the code forms the same means round by round.
5. The simplified version, which merges features at any place, keeps the order of the image and scales each token by
   1 + log of its size, is not here.

B batch (frames), N tokens with the class token first, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.class_token import class_attention
from lvlm_atlas.reference.modules.merged import merged
from lvlm_atlas.reference.ops.merging import Matching, even_odd_cosine, match_pairs, merge_wavg, unmerged
from lvlm_atlas.reference.refusal import Refusal


def rounds(tokens: int, r: int) -> list[int]:
    """Tokens to remove in each round: as many as are left to remove, ⌊(N − 1) / 2⌋ at most.

    Args:
        tokens: N, the class token among them.
        r: tokens to remove in all.
    """
    removed = []
    while step := min(r, (tokens - 1) // 2):
        removed.append(step)
        tokens, r = tokens - step, r - step
    return removed


def resisting(metric_BNd: Tensor, cls_attention_BN: Tensor, alpha: float) -> Tensor:
    """Scores (B, E, O) of merging each even token into each odd one: their cosine less 100 α times what it is paid.

    Only the token that would be merged away resists; the one that takes it in counts for nothing.
    """
    return even_odd_cosine(metric_BNd) - 100 * alpha * cls_attention_BN[:, ::2, None].to(metric_BNd.dtype)


def fold(metric_BNd: Tensor, cls_attention_BN: Tensor, r: int, alpha: float = 5.0) -> Matching:
    """Which tokens become one, the class token excepted, so that r less are left, or as many as can be.

    Between rounds the metric is the mean of a group weighted by size, and the attention that of those joined in the
    round, each counted once.

    Args:
        metric_BNd: what similarity is measured on.
        cls_attention_BN: what the class token pays to each token; to itself does not matter.
        r: tokens to remove.
        alpha: how much attention resists.
    """
    batch, tokens = metric_BNd.shape[:2]
    folded, size_BN = unmerged(batch, tokens, metric_BNd.device), None
    for step in rounds(tokens, r):
        matching = match_pairs(resisting(metric_BNd, cls_attention_BN, alpha), step, protected=1)
        folded = folded.then(matching)
        metric_BNd, size_BN = merge_wavg(matching, metric_BNd, size_BN)
        cls_attention_BN = merge_wavg(matching, cls_attention_BN[..., None])[0][..., 0]
    return folded


@dataclass(frozen=True)
class Folder(Technique):
    """At `encoder-layer`: in the last layer that runs, merges r tokens between attention and MLP.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    r: int = 384
    alpha: float = 5.0

    acts_at: ClassVar = ("encoder-layer",)
    needs: ClassVar = ("encoder-keys", "encoder-attention", "cls-token", "free-patches")
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_at_least(0, "r", "alpha")

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches, r less in the last layer.

        Raises:
            Refusal: there is not one class token, or the patches come without keys or attention.
        """
        patches = at.patches
        if at.layer < at.layers - 1 or not rounds(patches.hidden_FND.shape[1], self.r):
            return patches
        if patches.key_FHNd is None:
            raise Refusal("FOLDER matches patches by their keys, which these come without")
        paid_FN = functional.pad(class_attention(patches, "FOLDER").mean(dim=1), (1, 0))
        matching = fold(patches.key_FHNd.mean(dim=1), paid_FN, self.r, self.alpha)
        return merged(patches, matching, proportional=False)
