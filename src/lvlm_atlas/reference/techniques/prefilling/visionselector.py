"""VisionSelector: the vision tokens that a trained scorer finds most important.

Paper: zhu2025visionselector; code: YF-T/IDPruner, pruning/strategies/selector_strategy.py and
vision_selector_utils.py, which run the released scorers (the authors' own code of the selection was not read).

Symbols: `ratio`, the share dropped → `reduction`.

Departs:
1. Raw scores are ranked; the port ranks their soft top-k weights, which grow with the scores but may round to equals.
   Of equal scores the earlier token stays.
2. The mean over keys is taken before the product with the queries, so that no map of all pairs is formed.
3. The scorer has random weights unless trained ones are given to it.

B batch, V vision tokens, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.importance import ImportanceScorer, importance_scorer
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.selection import top_places


def kept_of(tokens: int, reduction: float) -> int:
    """Tokens that stay: round(`tokens` · (1 − `reduction`)), halves to even, but one at least where there is one."""
    return min(tokens, max(1, round(tokens * (1 - reduction))))


@dataclass(frozen=True)
class VisionSelector(Technique):
    """At `llm-input`: drops a share `reduction` of the vision tokens; the others keep their position ids.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    reduction: float = 0.8

    acts_at: ClassVar = ("llm-input",)
    needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence", "training-data")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 <= self.reduction < 1:
            raise ValueError(f"reduction must lie in [0, 1), got {self.reduction}")

    def begin(self, run: Run) -> Selecting:
        """What acts in a run."""
        return Selecting(self, importance_scorer(run))


@dataclass(frozen=True)
class Selecting:
    """VisionSelector with the scorer of the model."""

    setting: VisionSelector
    scorer: ImportanceScorer

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with fewer vision tokens."""
        sequence = at.sequence
        place_BV = sequence.vision_places()
        keep = kept_of(place_BV.shape[1], self.setting.reduction)
        if keep == place_BV.shape[1]:
            return sequence
        score_BV = self.scorer(take(sequence.hidden_BND, place_BV))
        return sequence.keep_vision(top_places(score_BV, keep))
