"""Video-XL-2, chunk-based prefilling: vision tokens see their own chunk of the video and a few before it.

Paper: qin2025videoxl2. Code: VectorSpaceLab/Video-XL, Video-XL-2/eval/lvu/w_chunk/videoxl2/videoxl2/model/
language_model/llava_qwen.py (`get_sparse_attention_mask`).

Symbols: `block_size_chosed` → `block_size`, groups of a chunk; `prev_blocks_num` → `previous_chunks`.

Departs:
1. Prefilling alone. Decoding from full entries of the chunks that a question is about and pooled ones of the others is
   left out: which chunks these are comes, in the code, from a list that another model has made.
2. A group is `group_frames` frames, of which the model there makes 144 tokens; on other models it has the tokens of so
   many, each temporal patch counting as a frame.
3. All text is seen by all and sees all. The code says so of text before and behind the video and of the timestamps
   between groups, which is all that there is.
4. Tokens behind a cache attend to all of it, and chunks are those of the new frames.

N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.blocks import Pairs, pair_attention  # noqa: F401 - a step of the entry
from lvlm_atlas.reference.refusal import Refusal


def chunk_of(vision_N: Tensor, chunk_tokens: int) -> Tensor:
    """The chunk (N,) of each vision token, counted from 0; −1 for text.

    Args:
        vision_N: True where a token is visual.
        chunk_tokens: vision tokens of a chunk; the last one may have fewer.
    """
    return torch.where(vision_N, (vision_N.long().cumsum(0) - 1) // chunk_tokens, -1)


def in_reach(chunk_N: Tensor, previous: int) -> Tensor:
    """True (N, N) where a token, a row, sees one before it: of its chunk or of the `previous` ones, or one is text."""
    text_N = chunk_N < 0
    near_NN = chunk_N[:, None] - chunk_N <= previous
    return (near_NN | text_N[:, None] | text_N).tril()


@dataclass(frozen=True)
class VideoXL2(Technique):
    """The attention of prefill in every layer.

    Raises:
        ValueError: an argument lies outside its range.
    """

    block_size: int = 4
    """Groups of a chunk."""
    previous_chunks: int = 3
    """Chunks that are seen besides a token's own."""
    group_frames: int = 4
    """Frames of a group."""

    acts_at: ClassVar = ("attention",)
    needs: ClassVar = (
        "block-sparse-kernel", "modality-mask", "vision-in-sequence", "equal-frames", "frames-apart",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.expect_at_least(1, "block_size", "previous_chunks", "group_frames")

    def begin(self, run: Run) -> Chunks:
        """What says who sees whom in one run."""
        return Chunks(self, run)


@dataclass(frozen=True)
class Chunks:
    """Video-XL-2 in one run."""

    setting: VideoXL2
    run: Run

    def choose_blocks(self, at: Attention) -> Pairs | None:
        """The pairs in reach; None where there are no frames.

        Raises:
            Refusal: frames have different numbers of vision tokens.
        """
        prompt = self.run.prompt
        spans = prompt.span_lengths if prompt else ()
        if prompt is None or not sum(spans):
            return None
        left = sum(spans) - (prompt.vision_BN.shape[1] - at.sequence.length)  # what pruning has taken is visual
        if len({*spans}) > 1 or left % len(spans):
            raise Refusal(
                f"Video-XL-2 needs frames of equally many tokens, got {left} of frames that had {list(spans)}; leave "
                f"out what drops some"
            )
        size = self.setting.block_size * self.setting.group_frames * (left // len(spans))
        chunk_N = chunk_of(at.sequence.vision_BN[0], max(1, size))
        return Pairs(in_reach(chunk_N, self.setting.previous_chunks)[None, None])
