"""Video-ChatGPT: a video becomes one token for each frame and one for each place of the patch grid, both by averaging.

Paper: maaz2024videochatgpt; code: mbzuai-oryx/Video-ChatGPT, video_chatgpt/inference.py
(`get_spatio_temporal_features_torch`), video_chatgpt/eval/model_utils.py (`get_seq_frames`, `load_video`).

Symbols: T (100 frames) → max_frames, t → frames F, s → patches N, c → width D.

Departs:
1. A video of no more than T frames is read whole; upstream's rule, the middles of T segments, then reads one frame
   twice and leaves out the last.
2. The tokens go through the model's own adapter, which LLaVA trained for single patches; upstream trains a linear one
   further on such tokens. Behind a linear one the mean of patches is the mean of tokens, behind an MLP it is not.
3. Where a model cuts a frame into tiles, each view counts as a frame here, and none of them is dropped.

F frames, K kept, N patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import EncoderOutput, Frames
from lvlm_atlas.reference.lvlm.technique import Technique


def segment_middles(frames: int, keep: int) -> Tensor:
    """The middle frames (K,) of K = `keep` equally long segments, ascending; all frames where there are no more.

    Segment i spans round(i · s) to round((i + 1) · s) for s = (F − 1) / K, halves rounded to even; of two middle frames
    the earlier one is taken.
    """
    if frames <= keep:
        return torch.arange(frames)
    length = (frames - 1) / keep
    edges = [round(length * index) for index in range(keep + 1)]
    return torch.tensor([(start + end) // 2 for start, end in pairwise(edges)])


def pooled(patch_FND: Tensor, slots: int) -> Tensor:
    """One token for each frame, then one for each place: (F, N, D) → (max(F, `slots`) + N, D).

    The mean over the patches of each frame, filled up to `slots` by zeros, then the mean over the frames at each place.
    """
    temporal_FD, spatial_ND = patch_FND.mean(1), patch_FND.mean(0)
    padding_SD = spatial_ND.new_zeros(max(0, slots - len(temporal_FD)), spatial_ND.shape[1])
    return torch.cat([temporal_FD, padding_SD, spatial_ND])


@dataclass(frozen=True)
class VideoChatGPT(Technique):
    """At `frames` and `encoder-output`: T frames, and of them T + N tokens for the adapter.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    max_frames: int = 100

    acts_at: ClassVar = ("frames", "encoder-output")
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid", "frames-apart")
    withholds: ClassVar = ("cls-token", "whole-grid", "equal-frames", "frames-apart")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "max_frames")

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending."""
        return segment_middles(len(at.request.frames_F3HW), self.max_frames)

    def encoder_output(self, at: EncoderOutput) -> Patches:
        """The tokens of the whole video, as if of one frame (1, T + N, D), without the class token."""
        patch_FND = at.patches.hidden_FND[:, at.patches.prefix :]
        return Patches(pooled(patch_FND, self.max_frames)[None], prefix=0, on_grid=False)
