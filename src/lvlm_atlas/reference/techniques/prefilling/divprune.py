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

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.lvlm.points import LlmInput, Technique
from lvlm_atlas.reference.ops.places import take


def cosine_distance(x_BVD: Tensor) -> Tensor:
    """1 − cosine of each pair: (B, V, D) → (B, V, V)."""
    unit_BVD = x_BVD / x_BVD.norm(dim=-1, keepdim=True)
    distance_BVV: Tensor = 1.0 - unit_BVD @ unit_BVD.mT
    return distance_BVV


def select_diverse(distance_BVV: Tensor, keep: int) -> Tensor:
    """Greedy max-min diversity: places (B, `keep`) in the order in which they are chosen.

    The first is the token farthest from its nearest neighbour. Each of the others is the one whose nearest chosen
    token is farthest; of equals the first.

    Args:
        distance_BVV: pairwise distances.
        keep: tokens to choose, from 0 to V.

    Raises:
        ValueError: `keep` lies outside that range.
    """
    batch, tokens = distance_BVV.shape[:2]
    if not 0 <= keep <= tokens:
        raise ValueError(f"keep must be in 0..{tokens} (the tokens), got {keep}")
    # The smallest distance is a token's to itself, so that its nearest neighbour is at the second smallest.
    nearest_BV = distance_BVV.topk(min(2, tokens), dim=1, largest=False).values[:, -1]
    free_BV = torch.ones(batch, tokens, dtype=torch.bool, device=distance_BVV.device)
    chosen: list[Tensor] = []
    for _ in range(keep):
        pick_B1 = nearest_BV.masked_fill(~free_BV, float("-inf")).argmax(dim=1, keepdim=True)
        free_BV = free_BV.scatter(1, pick_B1, value=False)
        to_pick_BV = take(distance_BVV, pick_B1)[:, 0]
        nearest_BV = torch.minimum(nearest_BV, to_pick_BV) if chosen else to_pick_BV
        chosen.append(pick_B1)
    return torch.cat(chosen, dim=1) if chosen else torch.empty(batch, 0, dtype=torch.long, device=distance_BVV.device)


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

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")

    def llm_input(self, at: LlmInput) -> Sequence:
        """The prompt with fewer vision tokens."""
        sequence = at.sequence
        x_BVD = take(sequence.hidden_BND, sequence.vision_places())
        return sequence.keep_vision(divprune(x_BVD, self.ratio)).renumber()
