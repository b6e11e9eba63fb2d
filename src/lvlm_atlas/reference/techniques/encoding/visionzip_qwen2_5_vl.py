"""VisionZip for Qwen2.5-VL: without a class token, the attention that patches receive says which tokens dominate.

Paper: yang2025visionzip; code: Qwen2_5_VL/qwen2_5vl_visionzip.py of the official repository, at 68993a3.

Symbols: attn_mean → score_FN, attn_key → metric_FNd, dominant_num → dominant, contextual_num → contextual.

Departs:
1. Each image, and each temporal patch of a video, chooses among its own tokens; upstream takes one image a request, and
   no video.
2. Attention is a float32 softmax within the temporal patch, as upstream's eager code has it but for the type; its code
   for FlashAttention-2 lets patches of one image's rows see all images of a request.
3. With a class token, its row and its column take no part, so that the rule can be tried on CLIP, too.
4. A contextual token keeps the DeepStack features of its target; Qwen2.5-VL has none.
5. Tiled images, which Qwen2.5-VL does not know, are left as they are.
6. Of tokens with equal scores the earlier one is kept; upstream's `topk` leaves that open.

F frames (images, temporal patches), N tokens of one, S patches of a token, R tokens left over, H heads, d head
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput, EncoderOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.visionzip import contextual_tokens, target_places


def budget(tokens: int, dominant: float, contextual: float) -> tuple[int, int]:
    """Dominant and contextual tokens of so many: the whole numbers below the shares, of contextual ones one at least.

    Together never more than there are.
    """
    kept = int(dominant * tokens)
    return kept, min(max(int(contextual * tokens), 1), tokens - kept)


def received(attention_FHNN: Tensor, patches: int) -> Tensor:
    """What each token receives (F, N), mean over heads and over its patches, sum over all rows.

    Args:
        attention_FHNN: attention of the patches, those of a token side by side.
        patches: S, of a token.
    """
    received_FN: Tensor = attention_FHNN.mean(dim=1).sum(dim=1)
    return received_FN.reshape(len(received_FN), -1, patches).mean(dim=2)


def compress(
    token_FND: Tensor, score_FN: Tensor, metric_FNd: Tensor, dominant: int, contextual: int
) -> tuple[Tensor, Tensor]:
    """The tokens (F, N, D), contextual ones at their targets, and the places (F, K) of all that stay, ascending.

    Args:
        token_FND: tokens behind the merger.
        score_FN: what each receives.
        metric_FNd: keys, averaged over heads and the patches of a token.
        dominant: tokens that stay as they are.
        contextual: tokens made of the others, at most as many as these; one at least.
    """
    stays_FN = top_mask(score_FN, dominant)
    rest_FR = places_of(~stays_FN)
    target_FC = rest_FR[:, target_places(rest_FR.shape[1], contextual, rest_FR.device)]
    summed_FCD = contextual_tokens(take(token_FND, rest_FR), take(metric_FNd, rest_FR), contextual)
    index_FCD = target_FC[..., None].expand(-1, -1, token_FND.shape[-1])
    return token_FND.scatter(1, index_FCD, summed_FCD), places_of(stays_FN.scatter(1, target_FC, value=True))


@dataclass(frozen=True)
class VisionZipQwen25VL(Technique):
    """At `encoder-output` it reads attention and keys, at `adapter-output` it keeps tokens and sums up others.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    dominant: float = 0.65
    contextual: float = 0.05

    acts_at: ClassVar = ("encoder-output", "adapter-output")
    needs: ClassVar = (
        "encoder-attention", "encoder-keys", "visual-features", "whole-grid", "equal-frames", "frames-apart",
    )  # fmt: skip
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_shares("dominant", "contextual")

    def begin(self, run: Run) -> Zipping:  # noqa: ARG002 - it needs to know nothing of the run
        """What acts in a run."""
        return Zipping(self)


@dataclass
class Zipping:
    """VisionZip for Qwen2.5-VL, and the patches of the clip that is encoded now."""

    setting: VisionZipQwen25VL
    patches: Patches | None = None

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The patches as they are."""
        self.patches = at.patches
        return at.patches

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """Dominant and contextual tokens of each frame, at their places; tiled images as they are.

        Raises:
            Refusal: frames have different numbers of tokens, or see `rated`.
        """
        tokens, lengths = at.tokens, {*at.tokens.lengths}
        if self.patches is not None and len(self.patches.hidden_FND) > len(tokens.blocks):
            return tokens
        if len(lengths) > 1:
            raise Refusal(f"VisionZip reads frames of equally many tokens, got {[*at.tokens.lengths]}; give one size")
        count = max(lengths, default=0)
        dominant, contextual = budget(count, self.setting.dominant, self.setting.contextual)
        if dominant + contextual >= count:
            return tokens
        score_FN, metric_FNd = self.rated(len(tokens.blocks), count)
        token_FND = torch.stack([block.token_ND for block in tokens.blocks])
        changed_FND, place_FK = compress(token_FND, score_FN, metric_FNd, dominant, contextual)
        blocks = zip(tokens.blocks, changed_FND, strict=True)
        changed = replace(tokens, blocks=tuple(replace(block, token_ND=token_ND) for block, token_ND in blocks))
        return changed.keep([*place_FK.cpu()])

    def rated(self, frames: int, count: int) -> tuple[Tensor, Tensor]:
        """What each token receives (F, N), and its keys (F, N, d).

        Raises:
            Refusal: patches come without attention or keys, are those of other frames, or are not joined by squares.
        """
        patches = self.patches
        if patches is None or patches.attention is None or patches.key_FHNd is None:
            raise Refusal("VisionZip reads the encoder's attention and keys, which an earlier technique left out")
        prefix, total = patches.prefix, patches.hidden_FND.shape[1] - patches.prefix
        joined = total // count
        if len(patches.hidden_FND) != frames or total != joined * count or (joined > 1 and patches.grid is None):
            raise Refusal(
                f"VisionZip rates a token by the patches under it, and here are {frames} frames of {count} tokens for "
                f"{len(patches.hidden_FND)} of {total} patches; leave out what replaces "
                f"the adapter or drops some"
            )
        attention_FHNN = patches.attention.rows(slice(prefix, None))[..., prefix:]
        key_FNd = patches.key_FHNd[:, :, prefix:].mean(dim=1)
        return received(attention_FHNN, joined), key_FNd.unflatten(1, (count, joined)).mean(dim=2)
