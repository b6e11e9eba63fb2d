"""Random pruning: a seeded random share of the vision tokens, the baseline of every reducer before the first LLM layer.

Paper: peng2025uniprunebench, which ranks reducers beside it; code: Tencent/AngelSlim,
angelslim/compressor/token_compressor/algorithm/basic.py (`random_pruning`).

Symbols: 1 − ratio → keep_ratio, the number of vision tokens → V.

Departs:
1. The draw has a seed and a generator of its own on the CPU, so that a setting means the same tokens everywhere;
   upstream takes the global generator of the device.
2. A share that rounds to no token keeps none; upstream keeps at least one.
3. Rows of a batch draw one after the other; upstream refuses batches.
4. Position ids are numbered anew, as DivPrune's at the same place, so that the two differ in their choice only.

B batch, V vision tokens, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.contexts import LlmInput
from lvlm_atlas.reference.lvlm.technique import Technique


def random_places(batch: int, tokens: int, keep_ratio: float, seed: int) -> Tensor:
    """Places (B, K) of the kept tokens, ascending; K = round(`keep_ratio` · `tokens`), halves to even."""
    generator = torch.Generator().manual_seed(seed)
    keep = round(keep_ratio * tokens)
    drawn_BK = torch.stack([torch.randperm(tokens, generator=generator)[:keep] for _ in range(batch)])
    return drawn_BK.sort(dim=1).values


@dataclass(frozen=True)
class RandomPruning(Technique):
    """At `llm-input`: keeps a random share `keep_ratio` of the vision tokens, and numbers positions anew.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    keep_ratio: float = 0.25
    seed: int = 0

    acts_at: ClassVar = ("llm-input",)
    needs: ClassVar = ("modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], got {self.keep_ratio}")
        self.expect_at_least(0, "seed")

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with fewer vision tokens."""
        sequence = at.sequence
        batch, tokens = sequence.vision_places().shape
        kept_BK = random_places(batch, tokens, self.keep_ratio, self.seed)
        return sequence.keep_vision(kept_BK.to(sequence.hidden_BND.device)).renumber()
