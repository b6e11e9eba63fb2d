"""AirCache: the few words that the prompt's last one rests on say which vision entries stay, and how many in a layer.

Paper: huang2025aircache (elite observation window, budgets by strength and skewness). There is no code.
Symbols: α → `threshold`; elite window k → `elite_BR`; I_v → `importance_BGV`; s_t, s_k → `strength`, `skewness`;
base budget r → `kept_share`.

Departs:
1. Attention is that of the model's own causal map, each row brought to sum 1 over the entries meant: a softmax over
   these alone, of which a row sees none behind it.
2. The text is what follows the last vision token, as in the paper, whose prompts begin with the image. Words are ranked
   by the mean over heads, so that a layer has one elite window.
3. Each key-value head keeps its own entries, by the mean over its query heads; strength and skewness are those of the
   mean over heads.
4. Strength and skewness are divided by their mean over layers, negative skewness being 0, so that shares have the mean
   r before they are clipped at 1. A layer keeps one vision entry at least. `exact` gives out ⌊r · all vision entries⌋.
5. Skewness divides by the deviation of a sample; it is 0 for fewer than three entries, or where all are alike.

B batch, H query heads, G key-value heads, R rows of the text, S entries, V vision entries, L layers, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheLayers
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.budget import apportion, clipped_shares
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.ops.scores import group_heads
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal


def elite(weight_BHRS: Tensor, threshold: float) -> Tensor:
    """True (B, R) at the words that the last one pays at least `threshold` times what it pays the most.

    Args:
        weight_BHRS: softmax rows of the text, which are the last entries.
        threshold: α, from 0 (all) to 1 (the first).
    """
    own_BHR = weight_BHRS[:, :, -1, -weight_BHRS.shape[2] :]
    paid_BR = (own_BHR / own_BHR.sum(dim=-1, keepdim=True)).mean(dim=1)
    return paid_BR >= threshold * paid_BR.amax(dim=-1, keepdim=True)


def importance(weight_BHRS: Tensor, vision_S: Tensor, elite_BR: Tensor, groups: int) -> Tensor:
    """What elite words pay each entry (B, G, S), of what they pay vision and elite words; their mean, 0 at text.

    Args:
        weight_BHRS: softmax rows of the text.
        vision_S: True where an entry is visual.
        elite_BR: which words are elite.
        groups: G.
    """
    meant_BS = vision_S.expand(len(elite_BR), -1).clone()
    meant_BS[:, -elite_BR.shape[1] :] |= elite_BR
    part_BHRS = weight_BHRS * meant_BS[:, None, None]
    part_BHRS = part_BHRS / part_BHRS.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(part_BHRS.dtype).tiny)
    row_BR = elite_BR / elite_BR.sum(dim=-1, keepdim=True)
    return group_heads((part_BHRS * row_BR[:, None, :, None]).sum(dim=2), groups) * vision_S


def skewness(x_V: Tensor) -> Tensor:
    """V / ((V − 1)(V − 2)) · Σ ((x − μ) / σ)³, σ of a sample; 0 where it has none."""
    count = len(x_V)
    if count < 3:
        return x_V.new_zeros(())
    offset_V = x_V - x_V.mean()
    deviation = (offset_V.square().sum() / (count - 1)).sqrt()
    cubes = (offset_V / deviation.where(deviation > 0, 1)).pow(3).sum()
    return cubes * count / ((count - 1) * (count - 2))


def layer_budgets(
    strength_L: Tensor, skewness_L: Tensor, entries: list[int], kept_share: float, *, exact: bool = False
) -> list[int]:
    """Vision entries that each layer keeps: ½ (s′_t + s′_k) · r of what it has, from 1 to all.

    Args:
        strength_L: s_t of each layer, not negative.
        skewness_L: s_k of each layer; less than 0 counts as 0.
        entries: vision entries of each layer, none at all where it keeps none.
        kept_share: r, from 0 to 1.
        exact: give out ⌊r · all entries⌋ exactly, where one a layer allow it.
    """
    weight_L = _to_mean_1(strength_L.double()) + _to_mean_1(skewness_L.double().clamp(min=0))
    least = [min(1, count) for count in entries]
    if exact:
        held = torch.tensor(entries)
        total = max(int(kept_share * sum(entries)), sum(least))
        given: list[int] = apportion(weight_L.cpu() * held, total, torch.tensor(least), held).tolist()
        return given
    shares = clipped_shares(weight_L, kept_share, 0.0).tolist()
    return [max(low, int(share * count)) for share, count, low in zip(shares, entries, least, strict=True)]


def _to_mean_1(x_L: Tensor) -> Tensor:
    """Divided by their mean; all 1 where all are 0."""
    return torch.where(x_L.sum() > 0, x_L / x_L.mean().where(x_L.sum() > 0, 1), 1)


@dataclass(frozen=True)
class AirCache(Technique):
    """AirCache at `cache-layers`.

    Raises:
        ValueError: a parameter out of its range.
    """

    kept_share: float = 0.1
    """Base budget r: share of the vision entries of all layers that is kept."""
    threshold: float = 0.9
    """A word is elite where the last one pays it at least this part α of what it pays the most."""
    exact: bool = False
    """Keep to the budget exactly; otherwise shares are clipped one by one."""

    acts_at: ClassVar = ("cache-layers",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 < self.kept_share <= 1:
            raise ValueError(f"kept_share must lie in (0, 1], got {self.kept_share}")
        self.expect_shares("threshold")

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        """The entries that each layer caches.

        Raises:
            Refusal: no text follows the last vision token, or another technique has evicted entries before.
        """
        for entries, probe in zip(at.entries, at.probes, strict=True):
            columns, length = probe.now(probe.query_BHNd[:, 0, :, 0]).shape[-1], entries.key_BGSd.shape[2]
            if columns != length:
                raise Refusal(
                    f"the attention rows have {columns} columns for {length} entries; leave out the technique that "
                    f"evicts the others"
                )
        places = [places_of(entries.vision_BGS) for entries in at.entries]
        counts = [place_BGV.shape[2] for place_BGV in places]
        if not any(counts):
            return at.entries
        seen = [self._look(*each) for each in zip(at.entries, at.probes, places, strict=True)]
        of_head_L = [importance_BGV[0].mean(dim=0) for importance_BGV in seen]
        strength_L = torch.stack([each_V.sum() for each_V in of_head_L])
        skewness_L = torch.stack([skewness(each_V) for each_V in of_head_L])
        budgets = layer_budgets(strength_L, skewness_L, counts, self.kept_share, exact=self.exact)
        return tuple(self._cut(*each) for each in zip(at.entries, places, seen, budgets, strict=True))

    def _look(self, entries: Entries, probe: Probe, place_BGV: Tensor) -> Tensor:
        """Importance (B, G, V) of the vision entries of a layer."""
        length, groups = entries.key_BGSd.shape[2], entries.key_BGSd.shape[1]
        rows = length - 1 - int(place_BGV.max()) if place_BGV.shape[2] else length
        if rows == 0:
            raise Refusal("AirCache needs text after the last vision token, got none")
        weight_BHRS = probe.rows(slice(-rows, None))
        elite_BR = elite(weight_BHRS, self.threshold)
        return take(importance(weight_BHRS, entries.vision_BGS[0, 0], elite_BR, groups), place_BGV)

    def _cut(self, entries: Entries, place_BGV: Tensor, importance_BGV: Tensor, keep: int) -> Entries:
        """All text, and of the vision entries the most important."""
        if keep >= place_BGV.shape[2]:
            return entries
        best_BGK = take(place_BGV, top_places(importance_BGV, keep))
        keep_BGS = (~entries.vision_BGS).scatter(2, best_BGK, value=True)
        return entries.keep(places_of(keep_BGS))
