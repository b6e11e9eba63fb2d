"""Adaptive keyframe sampling (AKS): frames that match the question, spread over the video.

Paper: tang2025aks; code: ncTimTang/AKS, frame_select.py. The paper's TOP (never split) and BIN (always
split) are the limits `gap_threshold` → −∞ and → ∞ of its ADA, which is what stands here.

Symbols: M → max_frames, s_thr (code: t1) → gap_threshold, t2 → std_threshold, maximal depth → max_depth,
s_t → score_F.

Departs:
1. If all scores are equal, they count as 0; upstream divides 0 by 0. The frames are the same for thresholds ≥ 0.
2. The technique does not split deeper than log2(max_frames), where a leaf's share of the budget would be no
   frame; upstream then drops those leaves, and may return nothing at all. `select` itself follows upstream.
3. With fewer frames than `ratio` the first is kept; upstream keeps none.
4. The matcher is CLIP-shaped with random weights, unless one is given; the paper's is BLIP's matching head, with
   CLIP as the released alternative. The text is the whole prompt; the paper scores the question alone.

F frames, K kept.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.selection import top_places


@dataclass(frozen=True)
class Segment:
    """A stretch of the video, halved `depth` times from the whole."""

    start: int
    stop: int
    depth: int


def normalise(score_F: Tensor) -> Tensor:
    """Scores moved to [0, 1] by their minimum and maximum, float64 on the CPU; equal scores give 0.

    Raises:
        ValueError: a score is infinite or NaN.
    """
    score_F = score_F.double().cpu()
    if not bool(score_F.isfinite().all()):
        raise ValueError(f"scores must be finite, got {score_F.tolist()}")
    low, high = score_F.min(), score_F.max()
    return (score_F - low) / (high - low if high > low else 1)


def split(
    score_F: Tensor, max_frames: int, gap_threshold: float, std_threshold: float, max_depth: int
) -> list[Segment]:
    """Judge and split: the leaves, shallower ones first, in time order within a depth.

    A segment is a leaf if its `max_frames` best scores exceed its mean by more than `gap_threshold` on average,
    and its standard deviation exceeds `std_threshold`; or if it is `max_depth` deep. Else it is halved.

    Args:
        score_F: normalised scores.
        max_frames: budget of the whole video, in every segment.
        gap_threshold: see above.
        std_threshold: see above.
        max_depth: see above.
    """
    numbers = score_F.numpy()  # numpy sums pairwise; torch does not, and would judge a tie otherwise than upstream
    leaves, level = [], [Segment(0, len(numbers), 0)]
    while level:
        halves = []
        for segment in level:
            part = numbers[segment.start : segment.stop]
            stands_out = False
            if len(part):
                best = part[heapq.nlargest(max_frames, range(len(part)), part.__getitem__)]
                stands_out = bool(best.mean() - part.mean() > gap_threshold and part.std() > std_threshold)
            if stands_out or segment.depth >= max_depth:
                leaves.append(segment)
            else:
                middle = segment.start + len(part) // 2
                halves.append(Segment(segment.start, middle, segment.depth + 1))
                halves.append(Segment(middle, segment.stop, segment.depth + 1))
        level = halves
    return leaves


def select(
    score_F: Tensor,
    max_frames: int = 64,
    gap_threshold: float = 0.8,
    std_threshold: float = -100.0,
    max_depth: int = 5,
) -> Tensor:
    """Indices (K,) of the keyframes, ascending; K ≤ `max_frames`.

    Each leaf of depth d gives its ⌊max_frames / 2^d⌋ best frames, the earlier of two equals. Fewer than
    `max_frames` frames are all kept.

    Args:
        score_F: relevance of each frame, on any scale.
        max_frames: budget M.
        gap_threshold: see `split`; compared with scores normalised to [0, 1].
        std_threshold: see `split`.
        max_depth: see `split`.
    """
    if len(score_F) < max_frames:
        return torch.arange(len(score_F))
    score_F = normalise(score_F)
    leaves = split(score_F, max_frames, gap_threshold, std_threshold, max_depth)
    chosen = []
    for leaf in leaves:
        part = score_F[leaf.start : leaf.stop]
        chosen.append(leaf.start + top_places(part, min(max_frames // 2**leaf.depth, len(part))))
    return torch.cat(chosen).sort().values


@dataclass(frozen=True)
class AdaptiveKeyframeSampling(Technique):
    """At `frames`: keeps at most `max_frames` of the frames.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    max_frames: int = 64
    gap_threshold: float = 0.8
    std_threshold: float = -100.0
    max_depth: int = 5
    ratio: int = 1
    matcher: ImageTextMatcher | None = None
    """Scores the frames; None takes the one that the model of the run keeps, see `matcher_of`."""

    acts_at: ClassVar = ("frames",)
    needs: ClassVar = ("image-text-matcher",)

    def __post_init__(self) -> None:
        for name, least in (("max_frames", 1), ("max_depth", 0), ("ratio", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def begin(self, run: Run) -> AdaptiveKeyframeSampling:
        """The technique with a matcher."""
        return self if self.matcher else replace(self, matcher=matcher_of(run))

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending.

        Raises:
            ValueError: frames must be scored and nothing scores them.
        """
        request, frames = at.request, at.request.frames_F3HW
        candidate_K = torch.arange(max(1, len(frames) // self.ratio)) * self.ratio
        if len(candidate_K) < self.max_frames:
            return candidate_K  # nothing to choose, so nothing to score
        if self.matcher is None:
            raise ValueError("select_frames needs a matcher; give one, or call what `begin` returns")
        candidates = request.keep_frames(candidate_K).runs
        score_K = torch.cat([self.matcher.score(frames_F3HW, request.text_N) for frames_F3HW in candidates])
        depth = min(self.max_depth, self.max_frames.bit_length() - 1)
        return candidate_K[select(score_K, self.max_frames, self.gap_threshold, self.std_threshold, depth)]
