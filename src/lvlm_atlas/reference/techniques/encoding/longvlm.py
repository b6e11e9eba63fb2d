"""LongVLM: short segments of a video, each merged step by step to K tokens, behind class tokens of the whole video.

Paper: weng2024longvlm, abstract; code: ziplab/LongVLM, longvlm/model/merge.py, scripts/save_features.py,
longvlm/eval/run_inference_qa.py.

Symbols: T (100 frames) → max_frames, `clips` (frames of a segment) S → segment_frames, tokens of a segment K →
segment_tokens, class tokens (the last 5 states) G → global_layers.

Departs:
1. The steps follow from K: each halves the tokens as long as at least K are left. That gives the authors' schedules,
   2560 to 30 and 5760 to 50 tokens, and one for any other size.
2. A video of fewer than T frames has fewer segments, the last one of them shorter; upstream repeats frames up to T.
3. The class tokens are those of the encoder layers that the model runs; upstream runs all, LLaVA leaves out the last.
4. Equal similarities are ordered by place, and groups are summed by a matrix product, as in `tome`.
5. Where a model cuts a frame into tiles, each view counts as a frame of a segment.
6. The tokens go through the model's own adapter, upstream's through a linear one that is fine-tuned. Where patches were
   merged before, their sizes count.

F frames, B segments of one length, N tokens of a segment, L encoder layers, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderLayer, EncoderOutput, Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.merging import bipartite_soft_matching, merge_wavg
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.encoding.video_chatgpt import segment_middles


def steps(tokens: int, keep: int) -> list[int]:
    """Tokens to remove in each step, half of them as long as at least `keep` are left."""
    removed = []
    while tokens > keep:
        removed.append(min(tokens // 2, tokens - keep))
        tokens -= removed[-1]
    return removed


def merge_hierarchically(token_BND: Tensor, keep: int, heads: int, size_BN: Tensor | None = None) -> Tensor:
    """The tokens of segments merged pair by pair: (B, N, D) → (B, min(N, `keep`), D).

    Each step matches tokens at even places with those at odd places and takes means weighted by size, see
    `bipartite_soft_matching`; what did not merge comes first, by falling similarity.

    Args:
        token_BND: features of the segments, frame after frame.
        keep: tokens that are left of each.
        heads: similarity is that of the features averaged over so many heads.
        size_BN: patches that each token stands for; None means one each.
    """
    tokens, sizes = token_BND, size_BN
    for removed in steps(token_BND.shape[1], keep):
        matching = bipartite_soft_matching(tokens.unflatten(-1, (heads, -1)).mean(2), removed)
        tokens, sizes = merge_wavg(matching, tokens, sizes)
    return tokens


@dataclass(frozen=True)
class LongVLM(Technique):
    """At `frames`, `encoder-layer` and `encoder-output`: class tokens of the video, then K tokens of each segment.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    max_frames: int = 100
    segment_frames: int = 10
    segment_tokens: int = 30
    global_layers: int = 5

    acts_at: ClassVar = ("frames", "encoder-layer", "encoder-output")
    needs: ClassVar = ("cls-token", "free-patches", "visual-features", "training-data", "frames-apart")
    withholds: ClassVar = ("cls-token", "whole-grid", "equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        for name, least in (("max_frames", 1), ("segment_frames", 1), ("segment_tokens", 1), ("global_layers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def begin(self, run: Run) -> Merging:
        """What acts in a run."""
        return Merging(self, run.config.vision.num_attention_heads)


@dataclass
class Merging:
    """LongVLM with the heads of the encoder, and what it saw of a clip."""

    setting: LongVLM
    heads: int
    states: list[Tensor] = field(default_factory=list)
    """The class token's state before each layer so far (D,), averaged over frames."""

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending: the middles of as many segments."""
        return segment_middles(len(at.request.frames_F3HW), self.setting.max_frames)

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches as they are; the class token that entered the layer is noted.

        Raises:
            Refusal: it is not known what entered the layer.
        """
        if at.patches.entered_FND is None:
            raise Refusal("LongVLM reads the class token between encoder layers, which this encoder does not show")
        self.states = [*(self.states if at.layer else []), at.patches.entered_FND[:, 0].mean(0)]
        return at.patches

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The tokens of the whole video, as if of one frame.

        Raises:
            Refusal: there is not one class token in front.
        """
        patches, setting = at.patches, self.setting
        if patches.prefix != 1:
            raise Refusal("LongVLM averages the class token over frames, and an earlier technique left none in front")
        state_LD = torch.stack([*self.states, patches.hidden_FND[:, 0].mean(0)])
        parts = [state_LD[max(0, len(state_LD) - setting.global_layers) :]]
        frames = len(patches.hidden_FND)
        rest = frames % setting.segment_frames
        for first, last, length in ((0, frames - rest, setting.segment_frames), (frames - rest, frames, rest)):
            if first < last:
                tokens = _in_segments(patches.hidden_FND[first:last, 1:], length)
                sizes = None if patches.size_FN is None else _in_segments(patches.size_FN[first:last, 1:], length)
                parts.append(merge_hierarchically(tokens, setting.segment_tokens, self.heads, sizes).flatten(0, 1))
        return Patches(torch.cat(parts)[None], prefix=0, on_grid=False)


def _in_segments(frames: Tensor, length: int) -> Tensor:
    """Frame after frame, in segments of so many: (F, N, …) → (F / length, length · N, …)."""
    segments: Tensor = frames.unflatten(0, (-1, length)).flatten(1, 2)
    return segments
