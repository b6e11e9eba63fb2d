"""PixelThink: reasoning as long as the difficulty of the task and the model's uncertainty allow.

Paper: wang2025pixelthink; budget, length score, uncertainty and reward as in the official code
(`verl/utils/reward_score/seg_pixelthink.py`, `verl/workers/rollout/vllm_rollout/vllm_rollout_spmd.py`), advantages as
in `verl/trainer/core_algos.py`.
Symbols: difficulty score d → `difficulty`; uncertainty score u → `uncertainty`; β → `BETA`.

Stand-in: the method is a reward, by which a model is trained to reason no longer than its budget; at inference the
trained model runs as it is. Any model can be run here. In place of the training, its answer ends when it reaches the
budget, as that of a model does which never loses reward by its length.

Departs:
1. Lengths count tokens; the code counts words of the whole answer, unless it is told to count tokens of the reasoning.
2. The uncertainty is that of the tokens so far; the code's is of the finished answer.
3. The difficulty of a request is a parameter; in training a large model grades it beforehand, from 0 to 10.

N tokens, C vocabulary, G answers of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Stop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.certainty import margin_uncertainty

BETA = 1 / 500
"""What a token beyond the budget costs, as a share of the reward."""
HARD, MEDIUM = 5.0, 3.5
"""From which difficulty on a task counts as hard, or as neither hard nor easy."""


def length_budget(
    difficulty: float, uncertainty: float, *, easy: float = 96, hard: float = 256, gain: float = 25
) -> float | None:
    """Tokens that an answer may take without losing reward; None: any number.

    Args:
        difficulty: from 0 to 10.
        uncertainty: 1 − (p₁ − p₂), mean over the tokens of the answer.
        easy: tokens of an easy task.
        hard: those of a hard task of which the model is certain.
        gain: how many more at full uncertainty.
    """
    if difficulty >= HARD:
        return hard + gain * uncertainty
    return None if difficulty >= MEDIUM else easy


def length_score(length: float, budget: float | None) -> float:
    """Share of the reward that an answer of that length gets: 1 within the budget, 0 from 1/β tokens beyond it on."""
    return 1.0 if budget is None else max(0.0, min(1.0, 1 - BETA * (length - budget)))


def reward(accuracy: float, length: float, budget: float | None) -> float:
    """Reward of an answer: a wrong one gains nothing by being short."""
    return accuracy * length_score(length, budget)


def advantages(reward_G: Tensor) -> Tensor:
    """Rewards (G,) of answers to one request, less their mean, in their standard deviations; of one, the reward."""
    if len(reward_G) == 1:
        return reward_G
    return (reward_G - reward_G.mean()) / (reward_G.std() + 1e-6)


@dataclass(frozen=True)
class PixelThink(Technique):
    """Ends the answer at `stop` when its budget is used up.

    Raises:
        ValueError: a parameter out of its range.
    """

    difficulty: float = 2.0
    """How hard the request is, from 0 to 10."""
    easy: int = 96
    """Tokens of an easy request."""
    hard: int = 256
    """Tokens of a hard request of which the model is certain."""
    gain: float = 25.0
    """How many more tokens a hard request gets at full uncertainty."""

    acts_at: ClassVar = ("stop",)
    needs: ClassVar = ("training-data",)

    def __post_init__(self) -> None:
        if not 0 <= self.difficulty <= 10:
            raise ValueError(f"difficulty must be in [0, 10], got {self.difficulty}")
        self.expect_at_least(1, "easy", "hard")
        self.expect_at_least(0, "gain")

    def stop(self, at: Stop) -> bool:
        """Whether the tokens so far use up the budget. Only where uncertainty decides does it look at the logits."""
        length = len(at.tokens)
        certain, unsure = self.budget(0), self.budget(1)
        if certain is None or unsure is None or length < certain:
            return False
        return length >= unsure or length >= self._budget_of(at.logits_NC)

    def budget(self, uncertainty: float) -> float | None:
        """`length_budget` of this request."""
        return length_budget(self.difficulty, uncertainty, easy=self.easy, hard=self.hard, gain=self.gain)

    def _budget_of(self, logits_NC: Tensor) -> float:
        return self.budget(float(margin_uncertainty(logits_NC).mean())) or 0
