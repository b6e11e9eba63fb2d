"""IDPruner: vision tokens that a trained scorer finds important and that differ from those chosen before them.

Paper: tan2026idpruner; code: YF-T/IDPruner, pruning/strategies/idpruner.py.

Symbols: `ratio`, the share dropped → `reduction`, λ (`mmr_lambda`) → `weight`, `parallel_k` → `at_once`, Imp →
importance_BV, Sim → likeness_BVV.

Departs:
1. Of equal scores the earlier token comes first; the code's `topk` leaves that open.
2. At a share of 1 nothing would be left, which the code allows; it is out of range here.
3. The scorer is VisionSelector's, with random weights unless trained ones are given to it.

B batch, V vision tokens, K kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.importance import ImportanceScorer, importance_scorer
from lvlm_atlas.reference.ops.diversity import maximal_marginal_relevance
from lvlm_atlas.reference.ops.places import take
from lvlm_atlas.reference.ops.similarity import unit
from lvlm_atlas.reference.techniques.prefilling.visionselector import kept_of

EPSILON = 1e-6
"""Added to the span of the scores, which may be 0."""


def importance(score_BV: Tensor) -> Tensor:
    """Scores stretched between the least and the greatest of the request: (B, V), from 0 to just below 1."""
    least_B1 = score_BV.amin(dim=1, keepdim=True)
    return (score_BV - least_B1) / (score_BV.amax(dim=1, keepdim=True) - least_B1 + EPSILON)


def idpruner(score_BV: Tensor, x_BVD: Tensor, keep: int, weight: float = 0.5, at_once: int = 1) -> Tensor:
    """Places (B, `keep`) of the kept vision tokens, in the order of choice.

    Args:
        score_BV: raw scores.
        x_BVD: the tokens, compared by cosine.
        keep: from 0 to V.
        weight: λ, of importance; the rest goes to being unlike what is kept.
        at_once: tokens chosen in a round.
    """
    unit_BVD = unit(x_BVD)
    return maximal_marginal_relevance(importance(score_BV), unit_BVD @ unit_BVD.mT, keep, weight, at_once)


@dataclass(frozen=True)
class IDPruner(Technique):
    """At `llm-input`: drops a share `reduction` of the vision tokens; the others keep their position ids.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    reduction: float = 0.75
    weight: float = 0.5
    at_once: int = 1

    acts_at: ClassVar = ("llm-input",)
    needs: ClassVar = ("visual-features", "modality-mask", "vision-in-sequence", "training-data")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 <= self.reduction < 1:
            raise ValueError(f"reduction must lie in [0, 1), got {self.reduction}")
        self.expect_shares("weight")
        self.expect_at_least(1, "at_once")

    def begin(self, run: Run) -> Pruning:
        """What acts in a run."""
        return Pruning(self, importance_scorer(run))


@dataclass(frozen=True)
class Pruning:
    """IDPruner with the scorer of the model."""

    setting: IDPruner
    scorer: ImportanceScorer

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with fewer vision tokens."""
        setting, sequence = self.setting, at.sequence
        place_BV = sequence.vision_places()
        keep = kept_of(place_BV.shape[1], setting.reduction)
        if keep == place_BV.shape[1]:
            return sequence
        x_BVD = take(sequence.hidden_BND, place_BV)
        chosen_BK = idpruner(self.scorer(x_BVD).float(), x_BVD.float(), keep, setting.weight, setting.at_once)
        return sequence.keep_vision(chosen_BK)
