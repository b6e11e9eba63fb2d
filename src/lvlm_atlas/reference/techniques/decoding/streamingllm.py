"""StreamingLLM: the first entries and the most recent ones stay, at positions that count what the cache holds.

Paper: xiao2024streamingllm; cache and positions as in the official code (`streaming_llm/kv_cache.py`,
`streaming_llm/pos_shift/modify_llama.py`). Symbols: attention sinks → `start_size`; rolling cache → `recent_size`.

Keys are held as they are before rotary (`unrotated-keys`); the cache turns them, and the queries, by their places in it
(`lvlm_atlas.reference.caches.in_cache`). Whatever store holds the entries, this only says which of them stay.

Departs:
1. A prompt, or a round of a session, is read at once and attends to itself and to all that is cached, then the cache is
   cut. So does the official chat; its evaluation of perplexity reads token by token.
2. The official chat cuts before a prompt, by the prompt's length and the longest answer that may follow
   (`evict_for_space`), and not while it answers; its evaluation cuts after every token, as the paper has it and as is
   done here. `stays_for_space` is the first of these rules.
3. A cache that holds no more than `start_size` + `recent_size` entries is left alone, padding not counted.
4. Drafted tokens are seen by those behind them until the round settles, so that in between more than `start_size` +
   `recent_size` entries are held, as the token that is read is in the official code.

B batch, G key-value heads, S entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.lvlm.technique import Technique


def stays(length: int, start_size: int, recent_size: int) -> Tensor:
    """Places (K,), ascending, of the entries that stay of so many: the first and the most recent ones, or all."""
    return stays_for_space(length, start_size, recent_size, coming=0)


def stays_for_space(length: int, start_size: int, recent_size: int, coming: int) -> Tensor:
    """Places (K,), ascending, of the entries that stay of `length`, so that with `coming` more they fit.

    Where more are coming than the recent ones that may stay, the first ones stay alone.
    """
    if length + coming <= start_size + recent_size:
        return torch.arange(length)
    place_S = torch.arange(length)
    return torch.cat([place_S[:start_size], place_S[max(start_size, length - recent_size + coming) :]])


def stay_mask(visible_BGS: Tensor, start_size: int, recent_size: int) -> Tensor:
    """True (B, G, S) at what `stays` names among the visible entries of each head; the host need not know how many."""
    number_BGS = visible_BGS.long().cumsum(dim=2)
    first_BGS, recent_BGS = number_BGS <= start_size, number_BGS > number_BGS[:, :, -1:] - recent_size
    return visible_BGS & (first_BGS | recent_BGS)


@dataclass(frozen=True)
class StreamingLlm(Technique):
    """Bounds the cache of every layer, in whichever store it is.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    start_size: int = 4
    """First entries that always stay: the attention sinks."""
    recent_size: int = 2000
    """Most recent entries that stay."""

    acts_at: ClassVar = ("cache-step",)
    needs: ClassVar = ("unrotated-keys", "one-position-axis", "equal-heads")

    def __post_init__(self) -> None:
        self.expect_at_least(0, "start_size")
        self.expect_at_least(1, "recent_size")

    def evict(self, at: CacheStep) -> Tensor | None:
        """True (B, G, S) at the entries that stay; None where all do."""
        visible_BGS = at.held.visible_BGS
        if visible_BGS.shape[2] <= self.start_size + self.recent_size:
            return None
        return stay_mask(visible_BGS, self.start_size, self.recent_size)
