"""KeyVideoLLM: evenly spaced frames first, then those of them whose CLIP embedding is closest to the question.

Paper: liang2024keyvideollm; code: haolpku/KeyVideoLLM, clip_keyframes/datasets/video_capture.py (coarse),
clip_keyframes/modules/extract_keyframes.py (`_topk_extraction`, fine).

Symbols: num_frames → coarse_frames, k → max_frames, frames → F, candidates → C, those kept → K.

Departs:
1. A video with fewer frames than `coarse_frames` gives one candidate a frame; the code fills the list up with copies of
   the last frame, of which several may then be kept.
2. Frames go on in their order in time; the code writes them from the best to the worst.
3. Borders are worked out in whole numbers; the code cuts multiples of a step in floating point, which can fall one
   frame short where the exact border is whole.
4. Of equal scores the earlier frame is kept; the code leaves that to the backend.
5. The matcher is CLIP-shaped with random weights, unless one is given; the text is the whole prompt. The answer, which
   the authors add to the question when they curate training data, is never read.
6. Where all candidates are kept none is scored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher, matcher_of
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.ops.stretches import borders


def segment_middles(total: int, segments: int) -> Tensor:
    """The middle frame (C,) of each of C = min(`segments`, `total`) stretches of a video of `total` frames, ascending.

    Stretch i runs from ⌊i · total / C⌋ to the frame before ⌊(i + 1) · total / C⌋; of an even number of frames the
    earlier of the two in the middle is taken.
    """
    border = borders(total, min(segments, total))
    return (border[:-1] + border[1:] - 1) // 2


@dataclass(frozen=True)
class KeyVideoLLM(Technique):
    """At `frames`: keeps at most `max_frames` of at most `coarse_frames` evenly spaced candidates.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    coarse_frames: int = 32
    max_frames: int = 8
    matcher: ImageTextMatcher | None = None
    """Scores the frames; None takes the one that the model of the run keeps, see `matcher_of`."""

    acts_at: ClassVar = ("frames",)
    needs: ClassVar = ("image-text-matcher",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "coarse_frames", "max_frames")

    def begin(self, run: Run) -> KeyVideoLLM:
        """The technique with a matcher."""
        return self if self.matcher else replace(self, matcher=matcher_of(run))

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending.

        Raises:
            ValueError: frames must be scored and nothing scores them.
        """
        request = at.request
        candidate_C = segment_middles(len(request.frames_F3HW), self.coarse_frames)
        if len(candidate_C) <= self.max_frames:
            return candidate_C  # nothing to choose, so nothing to score
        if self.matcher is None:
            raise ValueError("select_frames needs a matcher; give one, or call what `begin` returns")
        runs = request.keep_frames(candidate_C).runs
        score_C = torch.cat([self.matcher.score(frames_F3HW, request.text_N) for frames_F3HW in runs]).cpu()
        return candidate_C[top_places(score_C, self.max_frames)]
