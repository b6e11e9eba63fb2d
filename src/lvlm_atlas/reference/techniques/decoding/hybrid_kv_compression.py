"""HybridKV: static heads are pruned once, text first; dynamic heads keep all on the host and fetch chunks by the query.

Paper: zeng2026hybridkv (its abstract) and zhang2026survey (app. D.1). Symbols: ρ → `kept_share`; θ → `threshold`; r →
`dynamic_weight`; C → `chunk`; w → `window`.

Neither source gives formulas; the stages and what they decide are theirs, these readings are ours:
1. A head's attention is what the last w tokens of the prompt pay, averaged over them and its query heads. With m the
   fewest entries that hold θ of it, a head of S entries is static if 1 − m / S ≥ θ.
2. Of n heads n_s are static and n_d dynamic. A static head gets ρ S n / (n_s + r n_d) entries, a dynamic one r times
   that, rounded down; heads of a kind share alike.
3. A static head keeps entries of text by their attention, then vision entries by theirs, pooled over five neighbours.
4. A dynamic head's prompt is cut into chunks of C entries; the last ones, that fill none, stay on the device. A step
   scores a chunk by the product of its mean key with the step's mean query, both as they attend. As many whole chunks
   are read as cover the budget, and no fewer entries than the static heads of the layer keep, since heads are read side
   by side.
5. A layer whose dynamic heads would read everything keeps it on the device.

B batch · H query heads · G key-value heads · S entries · M new tokens · R rows, or places that are read · c chunks · d
head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.host import HostStore
from lvlm_atlas.reference.caches.store import PlainStore, Store
from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheBits, CacheLayers, CacheRead, CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import mask_of
from lvlm_atlas.reference.ops.scores import accumulated_attention, group_heads, pool_scores
from lvlm_atlas.reference.refusal import Refusal

NEIGHBOURS = 5


def sparsity(score_BGS: Tensor, mass: float) -> Tensor:
    """1 − m / S for each head (B, G), m the fewest entries whose shares of its score sum to `mass`."""
    share_BGS = score_BGS / score_BGS.sum(dim=-1, keepdim=True)
    summed_BGS = share_BGS.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    fewest_BG = (summed_BGS < mass).sum(dim=-1) + 1
    return 1 - fewest_BG.clamp(max=score_BGS.shape[-1]) / score_BGS.shape[-1]


def shares(kept_share: float, static: int, dynamic: int, weight: float) -> tuple[float, float]:
    """Shares of its entries that a static and a dynamic head get, so that all heads together get `kept_share`."""
    one = (static + dynamic) / (static + weight * dynamic)
    return kept_share * one, kept_share * one * weight


def text_first(score_BGS: Tensor, vision_BGS: Tensor, keep: int) -> Tensor:
    """Places (B, G, K), ascending: entries of text by their score, then visual ones by theirs, pooled."""
    pooled_BGS = pool_scores(score_BGS.masked_fill(~vision_BGS, 0), NEIGHBOURS)
    # Shares lie in 0 … 1, so that any text stands before all vision.
    rank_BGS = torch.where(
        vision_BGS, pooled_BGS / pooled_BGS.amax(dim=-1, keepdim=True).clamp(min=1e-30), 2 + score_BGS
    )
    return rank_BGS.topk(keep, dim=-1).indices.sort(dim=-1).values


def best_chunks(query_BHMd: Tensor, mean_BGcd: Tensor, count: int) -> Tensor:
    """Chunks (B, G, K), ascending, whose mean keys have the largest product with the mean query of a head."""
    query_BHd = query_BHMd.mean(dim=2)
    score_BGc = (group_heads(query_BHd, mean_BGcd.shape[1])[:, :, None] * mean_BGcd).sum(dim=-1)
    return score_BGc.topk(count, dim=-1).indices.sort(dim=-1).values


@dataclass(frozen=True)
class HybridKV(Technique):
    """HybridKV at `cache-tokens`, where it looks, `cache-layers`, `cache-bits` and `cache-read`.

    Raises:
        ValueError: a parameter out of its range.
    """

    kept_share: float = 0.1
    """Share ρ of all entries that heads get."""
    threshold: float = 0.9
    """Sparsity θ from which on a head is static, and the part of its attention that this is counted for."""
    dynamic_weight: float = 1.0
    """How many times r as much as a static head a dynamic one gets."""
    chunk: int = 16
    """Entries C of a chunk."""
    window: int = 32
    """Last tokens w of the prompt whose attention is looked at."""

    acts_at: ClassVar = ("cache-tokens", "cache-layers", "cache-bits", "cache-read")
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 < self.kept_share <= 1:
            raise ValueError(f"kept_share must lie in (0, 1], got {self.kept_share}")
        self.expect_shares("threshold")
        self.expect_at_least(1, "dynamic_weight", "chunk", "window")

    def begin(self, run: Run) -> _Acting:  # noqa: ARG002
        """What is known of the heads in this run or session."""
        return _Acting(self)


@dataclass(frozen=True)
class _Plan:
    """What one layer does with its prompt of S entries."""

    static: list[bool]
    """Whether each key-value head is static."""
    length: int
    chunks: int = 0
    """Chunks that the prompt of a dynamic head is cut into, on the host; 0: all stays on the device."""
    read: int = 0
    """Chunks that a step reads."""
    mean_BGcd: Tensor = field(default_factory=lambda: torch.empty(0))
    """Mean key of each chunk."""


class _Acting:
    def __init__(self, setting: HybridKV) -> None:
        self.setting = setting
        self.plans: list[_Plan] = []
        self.score_BGS: list[Tensor] = []
        """Of each layer, the attention that its text pays."""

    def compress_cache(self, at: CacheTokens) -> Entries:
        """All entries, once the attention of the first prompt's last tokens is noted.

        Raises:
            Refusal: there is more than one sequence, or another technique has evicted entries before.
        """
        if not self.plans:
            self.score_BGS.append(self._look(at.entries, at.probe))
        return at.entries

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        """The entries of the first prompt that each layer caches; later ones whole.

        Raises:
            Refusal: another technique has evicted entries since.
        """
        if self.plans:
            return at.entries
        score, theta = self.score_BGS, self.setting.threshold
        if any(one.shape != entries.vision_BGS.shape for one, entries in zip(score, at.entries, strict=True)):
            raise Refusal("HybridKV decides on the whole prompt; leave out the technique that evicts some of it")
        static = [(sparsity(score_BGS, theta) >= theta)[0].tolist() for score_BGS in score]
        heads, resting = sum(map(len, static)), sum(map(sum, static))
        share = shares(self.setting.kept_share, resting, heads - resting, self.setting.dynamic_weight)
        kept = []
        for entries, score_BGS, of_layer in zip(at.entries, score, static, strict=True):
            length = score_BGS.shape[2]
            few, many = (min(length, max(1, int(part * length))) for part in share)
            kept.append(self._pruned(entries, score_BGS, of_layer, few))
            self.plans.append(self._plan(entries.key_BGSd, of_layer, max(many, few if any(of_layer) else 0)))
        return tuple(kept)

    def new_store(self, at: CacheBits) -> Store:
        """A store of chunks on the host for dynamic heads, a plain one for static ones."""
        plan, size = self.plans[at.layer], self.setting.chunk
        if not plan.chunks or at.entries.key_BGSd.shape[2] < plan.length:
            return PlainStore()
        return HostStore([(size * i, size * (i + 1)) for i in range(plan.chunks)], resident=plan.read)

    def choose_entries(self, at: CacheRead) -> Tensor | None:
        """Of dynamic heads the best chunks and what is behind them, of static ones all; None where nothing is left out.

        Raises:
            Refusal: another technique has evicted entries.
        """
        plan, size = self.plans[at.layer], self.setting.chunk
        if not plan.chunks:
            return None
        if at.settled < plan.length:
            raise Refusal("HybridKV fetches chunks of the prompt as they were; leave out what evicts some")
        best_BGK = best_chunks(at.query_BHMd, plan.mean_BGcd, plan.read)
        place = torch.arange(at.settled, device=best_BGK.device)
        inside = (best_BGK[..., None] * size + place[:size]).flatten(2)
        behind = place[plan.chunks * size :].expand(*best_BGK.shape[:2], -1)
        index_BGR = torch.cat([inside, behind], dim=2)
        # What a static head has kept stands at the end, and padding before it.
        last = place[at.settled - index_BGR.shape[2] :].expand(len(index_BGR), -1)
        return torch.stack([last if still else index_BGR[:, g] for g, still in enumerate(plan.static)], dim=1)

    def _look(self, entries: Entries, probe: Probe) -> Tensor:
        """The attention (B, G, S) that a layer's text pays, in shares of 1."""
        batch, groups, length = entries.key_BGSd.shape[:3]
        if entries.uneven:
            raise Refusal("HybridKV decides on the whole prompt; leave out the technique that evicts some of it")
        if batch > 1 or entries.real_BGS is not None:
            raise Refusal("HybridKV tells heads apart by one prompt; ask one request a time")
        weight_BHRS = probe.rows(slice(-min(self.setting.window, length), None))
        if weight_BHRS.shape[-1] != length:
            raise Refusal(
                f"the attention rows have {weight_BHRS.shape[-1]} columns for {length} entries; leave out what evicts "
                f"the others"
            )
        return accumulated_attention(weight_BHRS, groups) / weight_BHRS.shape[2]

    def _pruned(self, entries: Entries, score_BGS: Tensor, static: list[bool], keep: int) -> Entries:
        if not any(static) or keep == score_BGS.shape[2]:
            return entries
        keep_BGS = mask_of(text_first(score_BGS, entries.vision_BGS, keep), score_BGS.shape[2])
        for head, still in enumerate(static):
            if not still:
                keep_BGS[:, head] = True
        return entries.keep_where(keep_BGS)

    def _plan(self, key_BGSd: Tensor, static: list[bool], budget: int) -> _Plan:
        size, length = self.setting.chunk, key_BGSd.shape[2]
        chunks = length // size
        read = -(-max(0, budget - length % size) // size)
        if all(static) or read >= chunks:
            return _Plan(static, length)
        mean_BGcd = torch.unflatten(key_BGSd[:, :, : chunks * size], 2, (chunks, size)).mean(dim=3)
        return _Plan(static, length, chunks, max(1, read), mean_BGcd)
