"""STC-Pruner: of each frame the vision tokens stay that are least like the frame's mean and the mean of what went by.

Paper: wang2026stc, abstract; code: lern-to-write/STC, model/prune.py (`STC_Pruner`, `ScoreCalculator`) and
model/config.py.

Symbols: token_per_frame → tokens_per_frame (K), encode_chunk_size → chunk_frames, past_memory_mean_token → memory,
alphas → ALPHAS.

Departs:
1. STC-Cacher, the paper's other half, is not here: it recomputes in the encoder of a chunk only the patches whose keys
   have changed most.
2. A frame with fewer tokens than K keeps them all; the code fails.
3. Equal variances and equal scores are ordered by place; the code leaves them to `topk`.
4. Scores are taken in float32 whatever the model computes in.
5. LLaVA-Video's tokens that end a row, which the code always keeps, are no token of their own here.
6. The score against the mean of the whole chunk, which the code works out and does not use, is left out.

F frames of a chunk, N tokens of a frame, K kept, M tokens, C channels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal

ALPHAS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
"""Widths of the Gaussians whose sum a similarity is."""


def quiet_channels(token_MD: Tensor) -> Tensor:
    """The ⌊D / 2⌋ channels of least variance over all tokens, (C,), by rising variance."""
    order_D = token_MD.var(dim=0, unbiased=False).argsort(stable=True)
    return order_D[: token_MD.shape[1] // 2]


def similarity(token_FNC: Tensor, mean_F1C: Tensor) -> Tensor:
    """Sum over the widths α of exp(−|x − m|² / 2α) for each token x and the mean m of its frame: (F, N)."""
    distance_FN = (token_FNC - mean_F1C).square().sum(dim=-1)
    return sum((torch.exp(-distance_FN / (2 * alpha)) for alpha in ALPHAS), torch.zeros_like(distance_FN))


def redundancy(token_FNC: Tensor, memory_C: Tensor) -> Tensor:
    """How much each token of a chunk is like its frame and like the past (F, N).

    Args:
        token_FNC: tokens of the chunk in the chosen channels.
        memory_C: mean over all chunks so far of the means of their tokens.
    """
    unit_FNC = functional.normalize(token_FNC, dim=-1)
    spatial_FN = similarity(unit_FNC, unit_FNC.mean(dim=1, keepdim=True))
    return spatial_FN + similarity(unit_FNC, functional.normalize(memory_C, dim=0).expand(len(unit_FNC), 1, -1))


@dataclass(frozen=True)
class STC(Technique):
    """At `adapter-output`: keeps at most `tokens_per_frame` tokens of each frame, chunk by chunk of the video.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    tokens_per_frame: int = 60
    chunk_frames: int = 1

    acts_at: ClassVar = ("adapter-output",)
    needs: ClassVar = ("visual-features", "equal-frames", "frames-apart")
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "tokens_per_frame", "chunk_frames")

    def begin(self, run: Run) -> Pruning:  # noqa: ARG002 - a memory for each run or session
        """What prunes in a run or session, with an empty memory."""
        return Pruning(self)


@dataclass
class Pruning:
    """The pruner with what it remembers of a run or session."""

    setting: STC
    memory: list[Tensor] = field(default_factory=list)
    """Mean (C,) of the tokens of each chunk so far, each in the channels that were quiet in it."""

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The tokens that stay, as many of each frame.

        Raises:
            Refusal: frames have different numbers of tokens.
        """
        blocks, lengths = at.tokens.blocks, {*at.tokens.lengths}
        if len(lengths) > 1:
            raise Refusal(
                f"STC keeps equally many tokens of each frame of a chunk, these have "
                f"{', '.join(map(str, sorted(lengths)))}; give frames of one size"
            )
        kept: list[Tensor] = []
        for first in range(0, len(blocks), self.setting.chunk_frames):
            chunk = blocks[first : first + self.setting.chunk_frames]
            kept += self.keep(torch.stack([block.token_ND for block in chunk]).float())
        if not lengths or max(lengths) <= self.setting.tokens_per_frame:
            return at.tokens
        return at.tokens.keep([*torch.stack(kept).cpu()])

    def keep(self, token_FND: Tensor) -> Tensor:
        """Places (F, K) of the tokens of a chunk that stay, ascending; the chunk goes into the memory."""
        token_FNC = token_FND[..., quiet_channels(token_FND.flatten(0, 1))]
        self.memory.append(token_FNC.mean(dim=(0, 1)))
        score_FN = redundancy(token_FNC, torch.stack(self.memory).mean(dim=0))
        return top_places(-score_FN, min(self.setting.tokens_per_frame, score_FN.shape[1]))
