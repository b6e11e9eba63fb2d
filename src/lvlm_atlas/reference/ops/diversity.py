"""Tokens that lie far apart.

B batch, V tokens to choose from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.places import take


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
