"""Elastic Cache: the prompt's entries are merged into the nearest important ones, later ones leave at one place.

Paper: liu2024elastic; scores, merging and elimination as in the official code (`kv_cache.py`, class `ElasticCache`).
Symbols: share of the entries that goes → `ratio`; first entries that stay → `start_size`; fixed point, counted from the
end of what stays of the prompt, or from the start of the cache if positive → `distance`.

Departs:
1. Entries are ranked by score. The official code compares with the output of one `argsort`, which lists places and not
   ranks, and counts the evicted places from the first candidate as if it were entry 0.
2. What goes is ⌊ratio · tokens⌋ entries. The official code merges one more of the prompt's, through `<=`.
3. Where a prompt is so short that nothing of it goes, the fixed point is set all the same; the official code then drops
   entry 0 at every step.
4. The fixed point never reaches the first `start_size` entries nor the newest one.
5. Of equal scores the earlier entry stays.
6. The first prompt sets the budget: from then on each new token, of an answer or a later turn, takes the place of an
   entry, and later prompts are not merged. The official code lets the cache grow by 1 − `ratio` entries a token of the
   answer, and starts anew with each sample.
7. Tokens that are verified together settle together, and as many entries as they bring too many leave side by side.

B batch, H query heads, G key-value heads, S entries, K kept, E evicted, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheStep, CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.ops.selection import top_mask
from lvlm_atlas.reference.refusal import Refusal


def budget(tokens: int, ratio: float) -> int:
    """Entries that stay of so many tokens: tokens − ⌊ratio · tokens⌋."""
    return tokens - int(tokens * ratio)


def select(score_BS: Tensor, keep: int, start: int) -> tuple[Tensor, Tensor]:
    """True (B, S) at what stays, and at the anchors among it: the entries that stay for their score.

    Besides these the first `start` entries and the last one stay, even if `keep` is less.

    Args:
        score_BS: importance.
        keep: entries that stay.
        start: first entries that always do.
    """
    entries = score_BS.shape[1]
    between = max(0, entries - 1 - start)
    anchor_BS = torch.zeros_like(score_BS, dtype=torch.bool)
    anchor_BS[:, start : start + between] = top_mask(
        score_BS[:, start : start + between], min(max(0, keep - (entries - between)), between)
    )
    stays_BS = anchor_BS.clone()
    stays_BS[:, :start] = stays_BS[:, -1:] = True
    return stays_BS, anchor_BS


def nearest(evict_BE: Tensor, anchor_BK: Tensor) -> Tensor:
    """For each evicted place, which anchor (B, E) is nearest to it, of two the earlier.

    Args:
        evict_BE: places of the evicted entries.
        anchor_BK: places of the anchors, ascending; at least one.
    """
    after_BE = torch.searchsorted(anchor_BK, evict_BE).clamp(max=anchor_BK.shape[1] - 1)
    before_BE = (after_BE - 1).clamp(min=0)
    nearer_BE = (take(anchor_BK, after_BE) - evict_BE).abs() < (take(anchor_BK, before_BE) - evict_BE).abs()
    return torch.where(nearer_BE, after_BE, before_BE)


def merge(x_BGSd: Tensor, evict_BE: Tensor, anchor_BK: Tensor) -> Tensor:
    """Keys or values (B, G, S, d) in which each anchor is the mean of itself and what is nearest to it."""
    if not anchor_BK.shape[1]:
        return x_BGSd
    target_BE = take(anchor_BK, nearest(evict_BE, anchor_BK))
    shape = (*x_BGSd.shape[:2], evict_BE.shape[1])
    target_BGEd = target_BE[:, None].expand(shape)[..., None].expand(*shape, x_BGSd.shape[3])
    evicted_BGEd = take(x_BGSd, evict_BE[:, None].expand(shape))
    return x_BGSd.scatter_reduce(2, target_BGEd, evicted_BGEd, "mean")


def eliminate(visible_BGS: Tensor, keep: int, point: int) -> Tensor:
    """True (B, G, S) at what stays: of each head `keep` entries; those that leave stand side by side from `point` on.

    Args:
        visible_BGS: False at padding, which counts as no entry.
        keep: entries that stay, from 1.
        point: place of the first that leaves, counting entries.
    """
    place_BGS = visible_BGS.long().cumsum(dim=2) - 1
    leave_BG1 = (place_BGS[:, :, -1:] + 1 - keep).clamp(min=0)
    first_BG1 = (place_BGS[:, :, -1:] - leave_BG1).clamp(max=point)
    return visible_BGS & ((place_BGS < first_BG1) | (place_BGS >= first_BG1 + leave_BG1))


@dataclass
class Elastic:
    """Elastic Cache in one run or session."""

    setting: ElasticCache
    budgets: dict[int, int] = field(default_factory=dict)
    """Of each layer the entries that it holds, by its first prompt."""

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries of the first prompt, merged; those of later ones as they are.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        entries, setting = at.entries, self.setting
        length = entries.key_BGSd.shape[2]
        if at.layer in self.budgets:
            return entries
        keep = max(budget(length, setting.ratio), min(length, setting.start_size + 1))
        self.budgets[at.layer] = keep
        if keep == length:
            return entries
        weight_BHRS = at.probe.rows()
        if weight_BHRS.shape[-1] != length:
            raise Refusal(
                f"the attention map has {weight_BHRS.shape[-1]} columns for {length} entries; put ElasticCache before "
                f"the technique that evicts the others"
            )
        stays_BS, anchor_BS = select(weight_BHRS.sum(dim=2).mean(dim=1), keep, setting.start_size)
        evict_BE, anchor_BK = places_of(~stays_BS), places_of(anchor_BS)
        merged = replace(
            entries,
            key_BGSd=merge(entries.key_BGSd, evict_BE, anchor_BK),
            value_BGSd=merge(entries.value_BGSd, evict_BE, anchor_BK),
        )
        return merged.keep(places_of(stays_BS)[:, None].expand(-1, entries.key_BGSd.shape[1], -1))

    def evict(self, at: CacheStep) -> Tensor | None:
        """Which entries stay once tokens have settled; None: all."""
        keep = self.budgets[at.layer]
        if self.setting.ratio == 0 or at.held.length <= keep:
            return None
        return eliminate(at.held.visible_BGS, keep, self.setting.place(keep))


@dataclass(frozen=True)
class ElasticCache(Technique):
    """Elastic Cache at `cache-tokens` and `cache-step`.

    Raises:
        ValueError: a parameter out of its range.
    """

    ratio: float = 0.2
    """Share of the entries that goes."""
    start_size: int = 1
    """First entries that always stay."""
    distance: int = -25
    """Where entries leave while decoding, from the end of what stays of the prompt; from the start if positive."""

    acts_at: ClassVar = ("cache-tokens", "cache-step")
    needs: ClassVar = ("attention-map",)
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must lie in [0, 1), got {self.ratio}")
        self.expect_at_least(0, "start_size")

    def place(self, kept: int) -> int:
        """The place at which entries leave once `kept` of the prompt have stayed."""
        return max(self.start_size, self.distance if self.distance > 0 else kept + self.distance)

    def begin(self, run: Run) -> Elastic:  # noqa: ARG002
        """What cuts the cache in this run or session."""
        return Elastic(self)
