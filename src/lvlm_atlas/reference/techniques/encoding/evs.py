"""Efficient Video Sampling (EVS): vision tokens stay where the picture has changed since the frame before.

Paper: bagrov2025evs, abstract; code: vllm-project/vllm, vllm/multimodal/evs.py (`compute_retained_tokens_count`,
`compute_retention_mask`).

Symbols: q → pruning_rate, T frames, tokens of a frame → N, those kept → K.

Departs:
1. The first frame goes ahead of all others by a key of its own; the code gives its tokens a dissimilarity of 255.
2. Cosines are taken in float32 whatever the model computes in.
3. What text counts on from behind the video is the model's rule for whole videos, the longer side of the grid; the
   code takes the width.
4. Images of one size are treated as the frames of a video; vLLM leaves images alone.
5. Of tiled images tokens are compared by their order, which is that of the same tiling.

T frames, N tokens of a frame, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.ops.similarity import likeness_to_frame_before
from lvlm_atlas.reference.refusal import Refusal


def kept_count(frames: int, tokens: int, pruning_rate: float) -> int:
    """Tokens that stay of `frames` · `tokens`: ⌊(1 − q) · T · N⌋, and at least those of one frame."""
    return max(tokens, int(frames * tokens * (1 - pruning_rate)))


def dissimilarity(token_TND: Tensor) -> Tensor:
    """1 − cosine (T, N) of each token and the one at its place in the frame before, float32; 0 in the first frame."""
    later_tN = 1 - likeness_to_frame_before(token_TND)
    return torch.cat([torch.zeros_like(token_TND[:1, :, 0], dtype=later_tN.dtype), later_tN])


def retention_mask(token_TND: Tensor, pruning_rate: float) -> Tensor:
    """True (T, N) at the tokens that stay: all of the first frame, then the most dissimilar ones of all others.

    Of equally dissimilar tokens the earlier frame's stays, in a frame the first in reading order.
    """
    frames, tokens = token_TND.shape[:2]
    first_TN = torch.arange(frames, device=token_TND.device)[:, None].expand(frames, tokens) == 0
    keep = kept_count(frames, tokens, pruning_rate)
    return top_mask(dissimilarity(token_TND).flatten(), keep, first_TN.flatten()).reshape(frames, tokens)


@dataclass(frozen=True)
class EVS(Technique):
    """At `adapter-output`: drops a share of a clip's vision tokens, those most like the frame before.

    Raises:
        ValueError: `pruning_rate` lies outside its range.
    """

    pruning_rate: float = 0.7

    acts_at: ClassVar = ("adapter-output",)
    needs: ClassVar = ("visual-features", "whole-grid", "equal-frames", "frames-apart")
    withholds: ClassVar = ("whole-grid", "equal-frames")

    def __post_init__(self) -> None:
        if not 0 <= self.pruning_rate < 1:
            raise ValueError(f"pruning_rate must lie in [0, 1), got {self.pruning_rate}")

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The tokens that stay, at their places in space and time.

        Raises:
            Refusal: frames have different numbers of tokens.
        """
        blocks, lengths = at.tokens.blocks, {*at.tokens.lengths}
        if len(lengths) > 1:
            raise Refusal(
                f"EVS compares frames token by token, these have {', '.join(map(str, sorted(lengths)))}; give frames "
                f"of one size"
            )
        tokens = sum(at.tokens.lengths)
        if not tokens or kept_count(len(blocks), tokens // len(blocks), self.pruning_rate) >= tokens:
            return at.tokens
        keep_TN = retention_mask(torch.stack([block.token_ND for block in blocks]), self.pruning_rate).cpu()
        return at.tokens.keep([keep_N.nonzero()[:, 0] for keep_N in keep_TN])
