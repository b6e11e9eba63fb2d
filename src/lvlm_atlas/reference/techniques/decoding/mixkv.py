"""MixKV: heads whose keys are alike keep entries that differ, others those that are attended to, each in proportion.

Paper: liu2026mixkv; scores, scales and mixture as in the official code (`mixkv/mixkv_utils.py`, `headwisemixkv`).
Symbols: importance by the window → votes; by the norm of the value → `value_size`; diversity → `distance`; the average
similarity of a head's keys, which is the weight of diversity → `redundancy`.

Departs:
1. A head's redundancy is that of the prompt at hand, by the closed form that the official code computes too; the code
   then takes the mean over a data set, measured beforehand, from a file.
2. Where all keys of a head point the same way, or all its values are equally long, that term is 0 for all entries; the
   official code divides by 0 in the second case.
3. Budgets are those of our PyramidKV and Ada-KV, with their departures. Budgets of heads follow from votes alone, as in
   the official code. That for SparseMM, which needs head scores of the model, is left out.
4. Kept entries stay in reading order, and of equal scores the earlier entry is kept; all is computed in float32.

B batch, G key-value heads, S entries, W entries before the window, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.budget import head_budgets, pyramid_budgets
from lvlm_atlas.reference.techniques.decoding.adakv import select as select_unevenly
from lvlm_atlas.reference.techniques.decoding.snapkv import check_window, observe, select


def redundancy(key_BGSd: Tensor) -> Tensor:
    """Mean cosine (B, G) of the pairs of different keys of a head, from −1 / (S − 1) to 1.

    With g the mean of the S unit keys, it is (S · |g|² − 1) / (S − 1), and no pair is formed.

    Args:
        key_BGSd: keys as they are cached, two at least.
    """
    entries = key_BGSd.shape[2]
    mean_BGd = functional.normalize(key_BGSd.float(), dim=-1).mean(dim=2)
    return (entries * mean_BGd.square().sum(dim=-1) - 1) / (entries - 1)


def distance(key_BGSd: Tensor, before: int) -> Tensor:
    """How far the direction of each of the first keys is from the mean direction of all: the negative dot (B, G, W).

    Args:
        key_BGSd: keys as they are cached.
        before: W, how many of them are scored.
    """
    unit_BGSd = functional.normalize(key_BGSd.float(), dim=-1)
    mean_BGd = unit_BGSd.mean(dim=2)
    return -(unit_BGSd[:, :, :before] @ mean_BGd[..., None])[..., 0]


def scaled_to(score_BGW: Tensor, vote_BGW: Tensor) -> Tensor:
    """Scores of a head brought to 0 … 1, then to the mean of its votes; 0 where they are all equal."""
    low, high = score_BGW.aminmax(dim=-1, keepdim=True)
    unit_BGW = (score_BGW - low) / (high - low).where(high > low, 1)
    return unit_BGW * vote_BGW.mean(dim=-1, keepdim=True) / (unit_BGW.mean(dim=-1, keepdim=True) + 1e-8)


def mix(vote_BGW: Tensor, key_BGSd: Tensor, value_BGSd: Tensor) -> Tensor:
    """Score (B, G, W) of each entry before the window: r · diversity + (1 − r) · importance.

    r is the redundancy of the head; importance is the vote and the scaled norm of the value.

    Args:
        vote_BGW: what the window pays to each entry, pooled.
        key_BGSd: keys as they are cached, the window's among them.
        value_BGSd: values.
    """
    before = vote_BGW.shape[-1]
    share_BG1 = redundancy(key_BGSd)[..., None]
    value_size_BGW = value_BGSd[:, :, :before].float().norm(dim=-1)
    importance_BGW = vote_BGW + scaled_to(value_size_BGW, vote_BGW)
    diversity_BGW = scaled_to(distance(key_BGSd, before), vote_BGW)
    return torch.lerp(importance_BGW, diversity_BGW, share_BG1)


@dataclass(frozen=True)
class MixKV(Technique):
    """MixKV at `cache-tokens`, on the budgets of SnapKV, PyramidKV or Ada-KV.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: the window fills the capacity.
    """

    window_size: int = 32
    """Tokens at the end of the prompt that vote; their entries are kept."""
    max_capacity_prompt: int = 64
    """Entries that a head keeps of the prompt, on average, the window among them; a shorter prompt is left alone."""
    kernel_size: int = 5
    """Neighbouring entries whose votes are averaged; odd, 1 pools nothing."""
    pyramid: bool = False
    """Whether the budget falls from layer to layer, as PyramidKV's."""
    beta: int = 20
    """Steepness of that pyramid; 1 makes all layers alike."""
    adaptive: bool = False
    """Whether the heads of a layer share its budget by their votes, as Ada-KV's."""
    floor_alpha: float = 0.2
    """Share of the mean that every head then keeps besides the window."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("attention-row",)
    withholds: ClassVar = ("equal-frames", "equal-heads")

    def __post_init__(self) -> None:
        check_window(self.window_size, self.max_capacity_prompt, self.kernel_size, "avgpool", "mean")
        self.expect_at_least(1, "beta")
        self.expect_shares("floor_alpha")

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries that the layer caches.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        entries = at.entries
        length = entries.key_BGSd.shape[2]
        if length < self.max_capacity_prompt:
            return entries
        steepness = self.beta if self.pyramid else 1
        base = pyramid_budgets(self.max_capacity_prompt, self.window_size, steepness, at.layers, length)[at.layer]
        vote_BGW = observe(at, self.window_size, self.kernel_size, "avgpool", "mean", "MixKV")
        score_BGW = mix(vote_BGW, entries.key_BGSd, entries.value_BGSd)
        if not self.adaptive:
            return entries.keep(select(score_BGW, base, self.window_size))
        budget_BG = head_budgets(vote_BGW, base, self.floor_alpha)
        return entries.keep_where(select_unevenly(score_BGW, budget_BG, self.window_size))
