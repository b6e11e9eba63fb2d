"""DivPrune: the vision tokens that lie farthest apart, chosen before the first LLM layer.

Paper: alvar2025divprune; code: vbdi/divprune, LLaVA/llava/model/llava_arch.py (`DivPrune`).

Symbols: r → ratio, M → keep, the tokens of the visual input → x_BVD, their pairwise distance d → distance_BVV.

Departs:
1. A chosen token is never chosen again; upstream chooses its index twice when the tokens left over are duplicates
   of chosen ones, and then gives the LLM the token twice.
2. Vision tokens are found by the modality mask; upstream counts on LLaVA's 35 prompt tokens in front of one image.
   All vision tokens of the request, those of all frames, are one set, as upstream's flattened tiles and frames are.

B batch, V vision tokens, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.diversity import select_diverse
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.similarity import cosine_distance


def divprune(x_BVD: Tensor, ratio: float) -> Tensor:
    """Places (B, K) of the kept tokens, ascending; K = round(`ratio` · V), halves to even."""
    keep = round(ratio * x_BVD.shape[1])
    return select_diverse(cosine_distance(x_BVD), keep).sort(dim=1).values


@dataclass(frozen=True)
class DivPrune(Technique):
    """At `llm-input`: keeps a share `ratio` of the vision tokens, and numbers positions anew.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    ratio: float = 0.098

    acts_at: ClassVar = ("llm-input",)
    needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with fewer vision tokens."""
        sequence = at.sequence
        x_BVD = take(sequence.hidden_BND, sequence.vision_places())
        return sequence.keep_vision(divprune(x_BVD, self.ratio)).renumber()
