"""MadaKV: heads divide their entries between vision and text as they attend to them; layers settle what they need.

Paper: li2025madakv (modality preference adaptation, hierarchical compression compensation). There is no code.
Symbols: proxy tokens P → `proxy`; ψ → `score_BGW`; w_v, w_t → `weight_BGM`; φ of a layer → `share`; θ → `mass`;
k_v + k_t → `need`; K of a layer → need minus share. The defaults of θ and P are ours, for what we read names neither.

Departs:
1. Budgets are shares of what a layer holds, since layers differ where prompts are pruned between them. Proxy tokens are
   always kept, and are part of the budget.
2. The compensation adds up heads, while the budget that it changes is that of one head: we take the mean over key-value
   heads. Layers are counted from 1 there, so that L − l of them follow layer l.
3. As printed, a layer keeps its budget, and the others are changed by what it would have needed; all together then keep
   more or less than asked. With `grant` each layer keeps its need, and all together exactly the budget.
4. Each modality keeps one entry at least where there are two to give out; what one modality lacks goes to the other.
   Largest remainders are rounded up.
5. Key-value heads that serve several query heads are scored by the mean over these; of equal ones the earlier is kept.

B batch, G key-value heads, S entries, W entries before the proxy tokens, M modalities (vision, text), K kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.budget import apportion
from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.scores import windowed_attention
from lvlm_atlas.reference.ops.selection import mass_count, top_mask
from lvlm_atlas.reference.refusal import Refusal


def of_modalities(score_BGW: Tensor, vision_BGW: Tensor) -> Tensor:
    """Scores (B, G, M, W) of vision and of text, each 0 at the other's entries."""
    return torch.stack([score_BGW * vision_BGW, score_BGW * ~vision_BGW], dim=2)


def modality_budgets(weight_BGM: Tensor, held_BGM: Tensor, keep: int) -> Tensor:
    """Entries (B, G, M) that each head keeps of each modality: φ · w / (w_v + w_t), whole, `keep` together.

    Args:
        weight_BGM: w_v and w_t of each head.
        held_BGM: how many entries there are.
        keep: entries of a head, at most all.
    """
    weights, held = weight_BGM.flatten(0, 1).cpu(), held_BGM.flatten(0, 1).cpu()
    floors = held.clamp(max=int(keep > 1))
    shared = [apportion(own[0], keep, *own[1:]) for own in zip(weights, floors, held, strict=True)]
    return torch.stack(shared).reshape(weight_BGM.shape).to(weight_BGM.device)


def select(score_BGW: Tensor, vision_BGW: Tensor, keep: int, window: int) -> Tensor:
    """Places (B, G, K + window), ascending: the best of each modality by its budget, and the window behind them."""
    each_BGMW = of_modalities(score_BGW, vision_BGW)
    own_BGMW = torch.stack([vision_BGW, ~vision_BGW], dim=2)
    budget_BGM = modality_budgets(each_BGMW.sum(dim=-1), own_BGMW.sum(dim=-1), keep)
    best_BGMW = top_mask(each_BGMW, budget_BGM, first=own_BGMW)
    kept_BGS = torch.nn.functional.pad(best_BGMW.any(dim=2), (0, window), value=True)
    return places_of(kept_BGS)


def needed(score_BGW: Tensor, vision_BGW: Tensor, mass: float) -> Tensor:
    """k_v + k_t (B, G): the fewest entries of each modality whose scores reach `mass` of its sum."""
    return mass_count(of_modalities(score_BGW, vision_BGW), mass).sum(dim=-1)


def compensated(share: float, need: float, following: int) -> float:
    """The share of the next layer: φ − (need − φ) / (layers that follow), no less than 0."""
    return max(0.0, share - (need - share) / following) if following else share


@dataclass
class Budget:
    """What the layers of a run are given, as shares of what they hold."""

    technique: MadaKV
    share: float = 0.0
    """That of the layer at hand."""

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries that the layer caches.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        technique, entries, window = self.technique, at.entries, self.technique.proxy
        groups, length = entries.key_BGSd.shape[1:3]
        if at.layer == 0:
            self.share = technique.kept_share
        if length <= window:
            return entries
        weight_BHRS = at.probe.rows(slice(-window, None))
        if weight_BHRS.shape[-1] != length:
            raise Refusal(
                f"the attention rows have {weight_BHRS.shape[-1]} columns for {length} entries; put MadaKV before the "
                f"technique that evicts the others"
            )
        score_BGW = windowed_attention(weight_BHRS, groups)
        vision_BGW = entries.vision_BGS[..., : length - window]
        need = (float(needed(score_BGW, vision_BGW, technique.mass).double().mean()) + window) / length
        following = at.layers - 1 - at.layer
        kept = self._grant(need, following, length) if technique.grant else self.share
        keep = min(length, max(window + 1, int(kept * length + 1e-9)))
        self.share = compensated(self.share, keep / length if technique.grant else need, following)
        if keep == length:
            return entries
        return entries.keep(select(score_BGW, vision_BGW, keep - window, window))

    def _grant(self, need: float, following: int, length: int) -> float:
        """The share that a layer needs, as far as the others are left with something; the last takes what is left."""
        left = self.share * (following + 1)
        least = (self.technique.proxy + 1) / length
        return min(need, left - following * least) if following else left


@dataclass(frozen=True)
class MadaKV(Technique):
    """MadaKV at `cache-tokens`.

    Raises:
        ValueError: a parameter out of its range.
    """

    kept_share: float = 0.2
    """Share of the entries that a layer keeps at first, and that all keep on average with `grant`."""
    mass: float = 0.9
    """Share θ of a modality's attention that the entries a layer needs are to hold."""
    proxy: int = 8
    """Proxy tokens at the end of the prompt, whose attention decides; they are kept."""
    grant: bool = False
    """Keep in each layer what it needs; otherwise its budget, as printed."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence")
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        if not 0 < self.kept_share <= 1:
            raise ValueError(f"kept_share must lie in (0, 1], got {self.kept_share}")
        self.expect_shares("mass")
        self.expect_at_least(1, "proxy")

    def begin(self, run: Run) -> Budget:  # noqa: ARG002
        """The budget of a run, at its first layer."""
        return Budget(self)
