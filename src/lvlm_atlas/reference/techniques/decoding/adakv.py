"""Ada-KV: the heads of a layer compete for one budget, so that those that attend more widely keep more entries.

Paper: feng2025adakv; budgets and floor as in the official code (`adaptive_snapkv/monkeypatch/snapkv_utils.py`,
`AdaptiveSnapKVCluster`), defaults as in its script for LongBench (`experiments/LongBench/pred.py`).
Symbols: safeguard α → `floor_alpha`; budget of a layer → G · `base_capacity`, the windows among it.

Departs:
1. Heads of a layer keep exactly what the layer's budget says: largest remainders are rounded up (`head_budgets`). The
   official code rounds each head on its own, and ends a few entries above or below.
2. Kept entries stay in reading order, and of equal votes the earlier entry of the first head is kept; the official code
   leaves both to `topk`.
3. Votes are summed in float32; the official code averages over the window, which ranks alike, in the model's type.
4. A key-value head has one budget, and `group` joins its query heads, as with `gqa_support` in the official code; it
   repeats the keys for every query head otherwise.
5. `pyramid` leaves layers alike for prompts below twice the mean, as PyramidKV does; the official code does not.
6. The code can also weigh a head's scores by the mass that it retains (`normalize`), and leave the first layers alike
   (`skip`); both are off there, and left out here.
7. Behind a cache (another turn of a session), heads that would differ are refused.

B batch, G key-value heads, S entries, W entries before the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.budget import head_budgets, pyramid_budgets
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.techniques.decoding.snapkv import check_window, observe


def select(vote_BGW: Tensor, budget_BG: Tensor, window: int) -> Tensor:
    """True (B, G, W + window) at each head's entries of most votes, as many as its budget says, and at the window."""
    return torch.nn.functional.pad(top_mask(vote_BGW, budget_BG), (0, window), value=True)


@dataclass(frozen=True)
class AdaKV(Technique):
    """Ada-KV at `cache-tokens`.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: the window fills the capacity.
    """

    window_size: int = 32
    """Tokens at the end of the prompt that vote; their entries are kept in every head."""
    base_capacity: int = 1024
    """Entries that a head keeps of the prompt, on average over a layer, the window among them; a shorter prompt is left
    alone."""
    floor_alpha: float = 0.2
    """Share α of the mean that every head keeps besides the window; 1 makes all heads alike."""
    kernel_size: int = 7
    """Neighbouring entries whose votes are pooled; odd, 1 pools nothing."""
    pooling: str = "maxpool"
    """How they are pooled, `avgpool` or `maxpool`."""
    group: str = "mean"
    """How query heads that share a key-value head vote together, `mean` or `max`."""
    pyramid: bool = False
    """Whether the budget falls from layer to layer, as PyramidKV's; otherwise all layers are alike."""
    beta: int = 20
    """Steepness of that pyramid; 1 makes all layers alike."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("attention-row",)
    withholds: ClassVar = ("equal-frames", "equal-heads")

    def __post_init__(self) -> None:
        check_window(self.window_size, self.base_capacity, self.kernel_size, self.pooling, self.group, "base_capacity")
        self.expect_shares("floor_alpha")
        self.expect_at_least(1, "beta")

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries that the layer caches.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        length = at.entries.key_BGSd.shape[2]
        if length < self.base_capacity:
            return at.entries
        steepness = self.beta if self.pyramid else 1
        base = pyramid_budgets(self.base_capacity, self.window_size, steepness, at.layers, length)[at.layer]
        vote_BGW = observe(at, self.window_size, self.kernel_size, self.pooling, self.group, "AdaKV")
        budget_BG = head_budgets(vote_BGW, base, self.floor_alpha)
        return at.entries.keep_where(select(vote_BGW, budget_BG, self.window_size))
