"""Uniform sampling: evenly spaced frames, and evenly spaced vision tokens, the baseline of every selection.

Paper: tang2025aks, which compares keyframes with it; code: ncTimTang/AKS, evaluation/llava_vid.py (`load_video`).

Symbols: M → max_frames, the share of tokens kept → keep_ratio, frames or tokens → N, those kept → K.

Departs:
1. Places are worked out in whole numbers; upstream truncates multiples of a step in floating point, which can fall one
   place short where the exact place is whole.
2. The same rule thins vision tokens, over all frames together; upstream samples frames only.
3. Position ids are numbered anew behind dropped tokens, as random pruning's at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import Frames, LlmInput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.places import even_places


@dataclass(frozen=True)
class Uniform(Technique):
    """At `frames` and `llm-input`: keeps evenly spaced frames, and an evenly spaced share of the vision tokens.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    max_frames: int = 64
    keep_ratio: float = 1.0

    acts_at: ClassVar = ("frames", "llm-input")
    needs: ClassVar = ("modality-mask", "vision-in-sequence")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "max_frames")
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")

    def select_frames(self, at: Frames) -> Tensor:
        """Indices (K,) of the frames to keep, ascending."""
        return even_places(len(at.request.frames_F3HW), self.max_frames)

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with fewer vision tokens."""
        if self.keep_ratio == 1:
            return at.sequence
        batch, tokens = at.sequence.vision_places().shape
        kept_K = even_places(tokens, round(self.keep_ratio * tokens))
        return at.sequence.keep_vision(kept_K.expand(batch, -1).to(at.sequence.hidden_BND.device)).renumber()
