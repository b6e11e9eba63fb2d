"""MEDA: layers share a cache by the entropy of attention between text and vision, and merge what they evict.

Paper: wan2025meda; entropies and shares as in the official code (`modify_llama.py`, `compute_crossmodal_entropy`, and
`v433_modeling_dynamic_llama.py`), choice and merging as in LOOK-M, on which that code is built.
Symbols: overall share ρ → `kept_share`; E of a layer → `entropy_L`.

Departs:
1. Attention between the modalities is that of the model's own causal map, each row brought to sum 1 over the visible
   entries of the other modality; what sees none counts 0. The official function lets text look at images behind it.
2. `entropy="full"` is that of the whole map, which the official code calls in place of that function.
3. The cache is cut at the end of prefill. The official code cuts it in the first step, whose row it adds to the scores.
4. Half of a layer's entries are recent ones, and text goes before vision, within the budget, as in our LOOK-M. The
   official code raises the number of recent entries above that of text tokens, and so may keep far more.
5. A layer keeps one entry at least. Clipping shares moves their mean off ρ, as in the paper; `exact` gives out ⌊ρ · all
   entries⌋ by the same weights and within the same bounds.
6. Merging is that of our LOOK-M, with its departures. Layers without vision tokens are left alone.

B batch, H query heads, G key-value heads, N tokens, S entries, L layers, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheLayers
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.budget import apportion, clipped_shares
from lvlm_atlas.reference.ops.scores import accumulated_attention
from lvlm_atlas.reference.ops.spread import attention_entropy
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.look_m import MERGES, merge_evicted, select

ENTROPIES = ("cross-modal", "full")
"""Which attention is measured: between text and vision, or all of it."""
LEAST = 0.01
"""Least share of its entries that a layer keeps."""


def cross_modal_entropy(weight_BHNN: Tensor, vision_N: Tensor) -> Tensor:
    """Entropy in nats of what text pays to vision plus that of what vision pays to text, a number.

    Each row is brought to sum 1 over the other modality; rows that see none of it count 0. Means over the rows of a
    modality, then over heads.

    Args:
        weight_BHNN: softmax map.
        vision_N: True where a token is visual.
    """
    other_NN = vision_N[:, None] != vision_N
    part_BHNN = weight_BHNN * other_NN
    total_BHN1 = part_BHNN.sum(dim=-1, keepdim=True)
    part_BHNN = part_BHNN / total_BHN1.where(total_BHN1 > 0, 1)
    entropy = weight_BHNN.new_zeros(())
    for row_N in (vision_N, ~vision_N):
        of_rows_BH = attention_entropy(part_BHNN * row_N[:, None])  # other rows are empty and add nothing
        entropy = entropy + of_rows_BH.mean() * len(row_N) / row_N.sum().clamp(min=1)
    return entropy


def layer_budgets(entropy_L: Tensor, entries: list[int], kept_share: float, *, exact: bool = False) -> list[int]:
    """Entries that each layer keeps, from 1 to all: clip(softmax(E)ₗ · ρ · L, 0.01, 1) of what it has, in two halves.

    Args:
        entropy_L: E of each layer.
        entries: what each layer has, at least one.
        kept_share: ρ, from 0 to 1.
        exact: give out ⌊ρ · all entries⌋ exactly, where the least shares allow it.
    """
    weight_L = entropy_L.double().softmax(dim=0)
    least = [max(1, 2 * int(LEAST / 2 * count)) for count in entries]
    if exact:
        held = torch.tensor(entries)
        total = max(int(kept_share * sum(entries)), sum(least))
        given: list[int] = apportion(weight_L.cpu() * held, total, torch.tensor(least), held).tolist()
        return given
    shares = clipped_shares(weight_L, kept_share, LEAST).tolist()
    return [max(1, 2 * int(share * count / 2)) for share, count in zip(shares, entries, strict=True)]


@dataclass(frozen=True)
class Meda(Technique):
    """MEDA at `cache-layers`.

    Raises:
        ValueError: a parameter out of its range.
    """

    kept_share: float = 0.2
    """Share ρ of the entries of all layers that is kept."""
    merge: str = "averaged"
    """How evicted entries are folded into kept ones, one of LOOK-M's `MERGES`."""
    entropy: str = "cross-modal"
    """Which attention says how much a layer gets, one of `ENTROPIES`."""
    exact: bool = False
    """Keep to the budget exactly; otherwise shares are clipped one by one, as in the paper."""

    acts_at: ClassVar = ("cache-layers",)
    needs: ClassVar = ("attention-map", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 < self.kept_share <= 1:
            raise ValueError(f"kept_share must lie in (0, 1], got {self.kept_share}")
        for name, choices in (("merge", MERGES), ("entropy", ENTROPIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    def compress_caches(self, at: CacheLayers) -> tuple[Entries, ...]:
        """The entries that each layer caches.

        Raises:
            Refusal: another technique has evicted entries before.
        """
        for entries, probe in zip(at.entries, at.probes, strict=True):
            columns, length = probe.now(probe.query_BHNd[:, 0, :, 0]).shape[-1], entries.key_BGSd.shape[2]
            if columns != length:
                raise Refusal(
                    f"the attention map has {columns} columns for {length} entries; leave out the technique that "
                    f"evicts the others"
                )
        visual = torch.stack([entries.vision_BGS.any() for entries in at.entries]).tolist()
        if not any(visual):
            return at.entries
        seen = [self._look(entries, probe) for entries, probe in zip(at.entries, at.probes, strict=True)]
        lengths = [entries.key_BGSd.shape[2] for entries in at.entries]
        entropy_L = torch.stack([entropy for entropy, _ in seen])
        budgets = layer_budgets(entropy_L, lengths, self.kept_share, exact=self.exact)
        return tuple(
            self._cut(entries, score_BGS, keep) if has_vision else entries
            for entries, (_, score_BGS), keep, has_vision in zip(at.entries, seen, budgets, visual, strict=True)
        )

    def _look(self, entries: Entries, probe: Probe) -> tuple[Tensor, Tensor]:
        """The entropy of a layer, and the score (B, G, S) of each entry."""
        weight_BHNN, groups = probe.rows(), entries.key_BGSd.shape[1]
        whole = self.entropy == "full"
        entropy = (
            attention_entropy(weight_BHNN).mean()
            if whole
            else cross_modal_entropy(weight_BHNN, entries.vision_BGS[0, 0])
        )
        return entropy, accumulated_attention(weight_BHNN, groups)

    def _cut(self, entries: Entries, score_BGS: Tensor, keep: int) -> Entries:
        """The entries that a layer keeps, with the others merged into them."""
        if keep >= score_BGS.shape[-1]:
            return entries
        recent = keep - keep // 2
        keep_BGK = select(score_BGS, entries.vision_BGS, keep - recent, recent)
        key_BGKd, value_BGKd = merge_evicted(entries.key_BGSd, entries.value_BGSd, keep_BGK, self.merge)
        return replace(entries.keep(keep_BGK), key_BGSd=key_BGKd, value_BGSd=value_BGKd)
