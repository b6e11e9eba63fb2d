"""VL-Cache: layers share a cache by how densely the text after the images attends, and keep what that text attends to.

Paper: tu2025vlcache (sparsity-aware budgets of layers, scores by post-vision attention). Its authors released no code;
EffiVLM-Bench's (`kv_cache_compression/kv_cache_utils.py`, `VlCacheKVCluster`) is what ours is compared with.
Symbols: α → `kept_share`; p → `threshold`; τ → the rows R; γ' → `attention_sparsity`; β → `share_L`.

Departs:
1. The recent entries are part of a layer's budget, ⌊`window_share` · k⌋ of its k. The other code adds them to it.
2. A layer keeps k = ⌊β · S⌋ entries, one at least; the other code takes one at least of each kind.
3. Clipping shares to `min_share` … 1 moves their mean off α, as in the paper. `exact` gives out ⌊α · all entries⌋,
   by the same weights and within the same bounds.
4. Each key-value head has its own scores, as in the other code with `head_adaptive`; of equal ones the earlier is kept.
5. A prompt without vision tokens is left alone. Behind a cache, the tokens read now are cut down by themselves.

B batch, H query heads, G key-value heads, R rows after the last vision token, S entries, L layers, K kept.
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
from lvlm_atlas.reference.ops.attention import causal_mask
from lvlm_atlas.reference.ops.budget import apportion, clipped_shares
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.scores import accumulated_attention
from lvlm_atlas.reference.ops.selection import recent_and_best
from lvlm_atlas.reference.ops.spread import attention_sparsity
from lvlm_atlas.reference.refusal import Refusal


def post_vision_density(weight_BHRS: Tensor, threshold: float) -> Tensor:
    """1 − γ', a number: the share of what the last R rows of a causal map may see that is not below the threshold.

    Args:
        weight_BHRS: softmax rows.
        threshold: p, relative to the greatest weight of each row.
    """
    rows, entries = weight_BHRS.shape[2:]
    visible_RS = causal_mask(rows, weight_BHRS.device, entries - rows)
    return 1 - attention_sparsity(weight_BHRS, threshold, visible_RS).double().mean()


def layer_budgets(
    density_L: Tensor, entries: list[int], kept_share: float, min_share: float, *, exact: bool = False
) -> list[int]:
    """Entries that each layer keeps, from 1 to all.

    Args:
        density_L: 1 − γ' of each layer.
        entries: what each layer has, at least one.
        kept_share: α, from 0 to 1.
        min_share: least share of a layer's entries.
        exact: give out ⌊α · all entries⌋ exactly, where the least shares allow it.
    """
    if exact:
        least = torch.tensor([max(1, int(min_share * count)) for count in entries])
        total = max(int(kept_share * sum(entries)), int(least.sum()))
        held = torch.tensor(entries)
        given: list[int] = apportion(density_L.cpu() * held, total, least, held).tolist()
        return given
    shares = clipped_shares(density_L, kept_share, min_share).tolist()
    return [max(1, int(share * count)) for share, count in zip(shares, entries, strict=True)]


def select(score_BGS: Tensor, keep: int, recent: int) -> Tensor:
    """Places (B, G, K), ascending, of the `keep` entries that stay: the `recent` last and the best of the others."""
    return places_of(recent_and_best(score_BGS, recent, keep - recent))


@dataclass(frozen=True)
class VlCache(Technique):
    """VL-Cache at `cache-layers`.

    Raises:
        ValueError: a parameter out of its range.
    """

    kept_share: float = 0.1
    """Share α of the entries of all layers that is kept."""
    threshold: float = 0.01
    """An attention weight below this part p of the greatest of its row counts as none."""
    window_share: float = 0.1
    """Share of a layer's budget that goes to its last entries."""
    min_share: float = 0.01
    """Least share of its entries that a layer keeps."""
    exact: bool = False
    """Keep to the budget exactly; otherwise shares are clipped one by one, as in the paper."""

    acts_at: ClassVar = ("cache-layers",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name in ("kept_share", "threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        self.expect_shares("window_share", "min_share")

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        """The entries that each layer caches.

        Raises:
            Refusal: no text follows the last vision token, or another technique has evicted entries before.
        """
        if not at.entries[0].vision_BGS.any():
            return at.entries
        seen = [self._look(entries, probe) for entries, probe in zip(at.entries, at.probes, strict=True)]
        density_L = torch.stack([density for density, _ in seen])
        lengths = [entries.key_BGSd.shape[2] for entries in at.entries]
        budgets = layer_budgets(density_L, lengths, self.kept_share, self.min_share, exact=self.exact)
        return tuple(
            entries.keep(select(score_BGS, keep, int(self.window_share * keep)))
            for entries, keep, (_, score_BGS) in zip(at.entries, budgets, seen, strict=True)
        )

    def _look(self, entries: Entries, probe: Probe) -> tuple[Tensor, Tensor]:
        """How dense a layer's post-vision attention is, and the score (B, G, S) of each entry."""
        length, groups = entries.key_BGSd.shape[2], entries.key_BGSd.shape[1]
        vision_S = entries.vision_BGS.flatten(0, 1).any(0)
        rows = length - 1 - int(vision_S.nonzero().max()) if bool(vision_S.any()) else length
        if rows == 0:
            raise Refusal("VlCache needs text after the last vision token, got none")
        weight_BHRS = probe.rows(slice(-rows, None))
        if weight_BHRS.shape[-1] != length:
            raise Refusal(
                f"the attention rows have {weight_BHRS.shape[-1]} columns for {length} entries; leave out the "
                f"technique that evicts the others"
            )
        return post_vision_density(weight_BHRS, self.threshold), accumulated_attention(weight_BHRS, groups)
