"""SnapKV: the last tokens of the prompt vote, head by head, for the entries that the answer will need.

Paper: li2024snapkv; votes, pooling and selection as in the official code (`snapkv/monkeypatch/snapkv_utils.py`).
Symbols: L_obs → `window_size`; L_prompt → S; capacity of the cache → `max_capacity_prompt`, the window among it.

Departs:
1. Key-value heads that serve several query heads vote by the mean or maximum of these (`group`). The official code
   repeats the keys for every query head and caches what each of them chooses, so that grouped heads hold more.
2. Kept entries stay in reading order; the official code leaves them in that of their scores. Attention is the same.
3. Of equal scores the earlier entry is kept; the official code leaves that to `topk`.
4. Votes are summed in float32; the official code rounds attention to the model's type first.
5. Behind a cache (another turn, the next chunk of a prompt) the tokens read now are cut down to the capacity by
   themselves. The official code compresses one prompt.

B batch, H query heads, G key-value heads, R rows of the window, S entries, W entries before the window, K kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.scores import Reduction, pool_scores, windowed_attention
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal

POOLINGS: dict[str, Reduction] = {"avgpool": "mean", "maxpool": "max"}
"""Ways to pool the votes along the sequence."""
GROUPS: tuple[Reduction, ...] = ("mean", "max")
"""Ways to join the votes of the query heads that share a key-value head."""


def votes(weight_BHRS: Tensor, groups: int, kernel: int, pooling: Reduction, group: Reduction) -> Tensor:
    """What the window pays to the entries before it, pooled along the sequence: (B, G, W).

    Args:
        weight_BHRS: softmax rows of the window, over all entries.
        groups: G.
        kernel: entries that are pooled, odd.
        pooling: mean or maximum of them.
        group: mean or maximum over the query heads of a key-value head, before pooling.
    """
    return pool_scores(windowed_attention(weight_BHRS, groups, group), kernel, pooling)


def select(vote_BGW: Tensor, keep: int, window: int) -> Tensor:
    """Places (B, G, K + window), ascending: the `keep` entries of most votes, and the window behind them."""
    batch, groups, before = vote_BGW.shape
    window_BGR = torch.arange(before, before + window, device=vote_BGW.device).expand(batch, groups, window)
    return torch.cat([top_places(vote_BGW, keep), window_BGR], dim=-1)


def check_window(
    window: int, capacity: int, kernel: int, pooling: str, group: str, name: str = "max_capacity_prompt"
) -> None:
    """Hold the parameters of a window of observation against their ranges; `name` is that of the capacity.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: the kernel is even, or the window fills the capacity.
    """
    if window < 1:
        raise ValueError(f"window_size must be at least 1, got {window}")
    if kernel < 1 or kernel % 2 == 0:
        raise Refusal(f"kernel_size must be odd and at least 1, got {kernel}")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {group!r}")
    if capacity <= window:
        raise Refusal(f"{name} must exceed window_size {window}, got {capacity}")


def observe(at: CacheTokens, window: int, kernel: int, pooling: str, group: str, name: str) -> Tensor:
    """The votes (B, G, W) that the window of a layer casts; see `votes`.

    Args:
        at: the layer, with more entries than the window.
        window: tokens at the end of the prompt that vote.
        kernel: entries that are pooled.
        pooling: one of `POOLINGS`.
        group: one of `GROUPS`.
        name: of the technique that asks.

    Raises:
        Refusal: another technique has evicted entries of this layer before.
    """
    groups, length = at.entries.key_BGSd.shape[1:3]
    weight_BHRS = at.probe.rows(slice(-window, None))
    if weight_BHRS.shape[-1] != length:
        raise Refusal(
            f"the attention rows have {weight_BHRS.shape[-1]} columns for {length} entries; put {name} before the "
            f"technique that evicts the others"
        )
    return votes(weight_BHRS, groups, kernel, POOLINGS[pooling], "max" if group == "max" else "mean")


@dataclass(frozen=True)
class SnapKV(Technique):
    """SnapKV at `cache-tokens`.

    Raises:
        ValueError: a parameter out of its range.
        Refusal: the window fills the capacity.
    """

    window_size: int = 32
    """Tokens at the end of the prompt that vote; their entries are kept."""
    max_capacity_prompt: int = 2048
    """Entries that a head keeps of the prompt, the window among them; a shorter prompt is left alone."""
    kernel_size: int = 5
    """Neighbouring entries whose votes are pooled; odd, 1 pools nothing."""
    pooling: str = "avgpool"
    """How they are pooled, `avgpool` or `maxpool`."""
    group: str = "mean"
    """How query heads that share a key-value head vote together, `mean` or `max`."""

    acts_at: ClassVar = ("cache-tokens",)
    needs: ClassVar = ("attention-row",)
    withholds: ClassVar = ("equal-frames",)

    def __post_init__(self) -> None:
        check_window(self.window_size, self.max_capacity_prompt, self.kernel_size, self.pooling, self.group)

    def compress_cache(self, at: CacheTokens) -> Entries:
        """The entries that the layer caches.

        Raises:
            Refusal: another technique has evicted entries of this layer before.
        """
        entries = at.entries
        if entries.key_BGSd.shape[2] < self.max_capacity_prompt:
            return entries
        vote_BGW = observe(at, self.window_size, self.kernel_size, self.pooling, self.group, "SnapKV")
        return entries.keep(select(vote_BGW, self.max_capacity_prompt - self.window_size, self.window_size))
