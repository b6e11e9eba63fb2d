"""LOOK-M: cuts the cache once after prefill, vision entries first, and folds what it evicts into what it keeps.

Paper: wan2024lookm (text-prior eviction, then averaged, pivotal or weighted merging).

Symbols: N → `heavy`, M → `recent`, their shares of the cache → `hh_ratio`, `recent_ratio`; the accumulated attention
A_s → `score_BGS`; conserved and evicted entries → kept (K) and evicted (E); the similarity matrix → `similarity_BGEK`.

Departs:
1. Entries are ordered by modality first and by score within each. The paper raises text scores by the largest score,
   the released code takes 65516 off vision scores. Either gives this order in exact arithmetic; in floating point the
   sum rounds away differences between scores, below 0.004 in float32 and nearly all of them in float16.
2. `strict` keeps exactly N + M entries, as the paper has it. The released code keeps all text besides: `strict=False`.
3. `averaged` follows the paper: all evicted entries, each to its own target. The released code takes the targets of
   the entries that pass the filter of `weighted` but pairs them with the first evicted ones, whichever those are.
4. Key-value heads that serve several query heads are scored by the mean over these; the code expects as many
   key-value heads as query heads.
5. Attention is summed in float32 per request; the code sums over the batch in the model's type.
6. M = 0 works; the code's slices `:-0` and `-0:` fail.

B batch, H query heads, G key-value heads, R query rows, S entries, K kept, E evicted, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.places import mask_of, places_of, take
from lvlm_atlas.reference.ops.scores import accumulated_attention
from lvlm_atlas.reference.ops.selection import recent_and_best
from lvlm_atlas.reference.refusal import Refusal

MERGES = ("pivotal", "averaged", "weighted", "none")
"""Ways to fold evicted entries into kept ones; `none` drops them."""


def select(score_BGS: Tensor, vision_BGS: Tensor, heavy: int, recent: int, *, strict: bool = True) -> Tensor:
    """Places (B, G, K), ascending, of the entries to keep.

    Args:
        score_BGS: accumulated attention.
        vision_BGS: True where an entry is visual.
        heavy: entries kept out of those before the recent ones: text first, then by score, of equals the earlier.
        recent: entries kept at the end.
        strict: keep exactly heavy + recent; otherwise all text entries besides.

    Raises:
        Refusal: heads would keep different numbers of entries, since their text entries differ in number.
    """
    keep_BGS = recent_and_best(score_BGS, recent, heavy, first=~vision_BGS)
    if not strict:
        keep_BGS = keep_BGS | ~vision_BGS
        counts = keep_BGS.sum(dim=-1)
        if bool((counts != counts.flatten()[0]).any()):
            raise Refusal(f"heads must keep equally many entries, got {counts.tolist()}; use strict=True")
    return places_of(keep_BGS)


def merge_evicted(key_BGSd: Tensor, value_BGSd: Tensor, keep_BGK: Tensor, merge: str) -> tuple[Tensor, Tensor]:
    """Kept keys and values (B, G, K, d), each evicted entry folded into the kept one whose key is most similar.

    A kept entry becomes the mean of itself and what is folded into it. That is the evicted entry (`averaged`), its
    mean with the target (`pivotal`), or its multiple by the cosine (`weighted`; only those of at least mean cosine,
    judged by the mean over heads of the entries that rank alike among the evicted). Keys decide for values too.

    Args:
        key_BGSd: keys, rotated.
        value_BGSd: values.
        keep_BGK: places of the kept entries, ascending; at least one.
        merge: one of `MERGES`.
    """
    evict_BGE = places_of(~mask_of(keep_BGK, key_BGSd.shape[2]))
    kept_key, kept_value = take(key_BGSd, keep_BGK), take(value_BGSd, keep_BGK)
    if merge == "none" or not evict_BGE.shape[-1]:
        return kept_key, kept_value
    evicted_key = take(key_BGSd, evict_BGE)
    similarity_BGEK = functional.normalize(evicted_key, dim=-1) @ functional.normalize(kept_key, dim=-1).mT
    cosine_BGE, target_BGE = similarity_BGEK.max(dim=-1)
    used_BGE = torch.ones_like(cosine_BGE)
    if merge == "weighted":
        used_B1E = cosine_BGE.mean(1, keepdim=True) >= cosine_BGE.mean((1, 2), keepdim=True)
        used_BGE = used_BGE * used_B1E

    def fold(kept_BGKd: Tensor, evicted_BGEd: Tensor) -> Tensor:
        if merge == "pivotal":
            evicted_BGEd = (evicted_BGEd + take(kept_BGKd, target_BGE)) / 2
        elif merge == "weighted":
            evicted_BGEd = cosine_BGE[..., None] * evicted_BGEd
        count_BGK = torch.ones_like(kept_BGKd[..., 0]).scatter_add(2, target_BGE, used_BGE)
        target_BGEd = target_BGE[..., None].expand_as(evicted_BGEd)
        return kept_BGKd.scatter_add(2, target_BGEd, used_BGE[..., None] * evicted_BGEd) / count_BGK[..., None]

    return fold(kept_key, evicted_key), fold(kept_value, take(value_BGSd, evict_BGE))


@dataclass(frozen=True)
class LookM(Technique):
    """Compresses the prompt's entries of every layer; a prompt without vision tokens is left alone.

    Raises:
        ValueError: an argument lies outside its range.
    """

    hh_ratio: float = 0.1
    """Share of the cache kept for its accumulated attention."""
    recent_ratio: float = 0.1
    """Share of the cache kept at its end."""
    merge: str = "pivotal"
    """How evicted entries are folded in, one of `MERGES`."""
    strict: bool = True
    """Keep to the budget; otherwise all text is kept besides, as the released code does."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("attention-map", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        for name in ("hh_ratio", "recent_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        if self.merge not in MERGES:
            raise ValueError(f"merge must be one of {', '.join(MERGES)}, got {self.merge!r}")

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries that the layer caches.

        Raises:
            Refusal: the ratios leave no entry at all, or another technique has evicted entries of this layer before.
        """
        entries = at.entries
        length = entries.key_BGSd.shape[2]
        heavy, recent = int(length * self.hh_ratio), int(length * self.recent_ratio)
        if length <= heavy + recent or not entries.vision_BGS.any():
            return entries
        if heavy + recent == 0:
            raise Refusal(
                f"hh_ratio {self.hh_ratio} and recent_ratio {self.recent_ratio} keep none of {length} entries"
            )
        weight_BHRS = at.probe.rows()
        if weight_BHRS.shape[-1] != length:
            raise Refusal(
                f"the attention map has {weight_BHRS.shape[-1]} columns for {length} entries; put LookM before the "
                f"technique that evicts the others"
            )
        score_BGS = accumulated_attention(weight_BHRS, entries.key_BGSd.shape[1])
        keep_BGK = select(score_BGS, entries.vision_BGS, heavy, recent, strict=self.strict)
        key_BGKd, value_BGKd = merge_evicted(entries.key_BGSd, entries.value_BGSd, keep_BGK, self.merge)
        return replace(entries.keep(keep_BGK), key_BGSd=key_BGKd, value_BGSd=value_BGKd)
