"""H2O: at each step the cache keeps what has received most attention so far, the heavy hitters, and the recent entries.

Paper: zhang2023h2o; scores and eviction as in the official code that drops entries
(`h2o_hf/utils_real_drop/modify_llama.py`), budgets as shares of the prompt as in the one that masks them
(`h2o_hf/utils_hh/modify_llama.py`). Symbols: heavy hitters → `heavy`, recent entries → `recent`, accumulated scores
→ acc.

Departs:
1. The code that masks keeps the score of the entry that leaves the recent ones, hides it for one step, and may show it
   again in the next. Here, as in the code that drops, what is evicted is gone.
2. Key-value heads that serve several query heads are scored by the mean over these; the code that drops expects as many
   key-value heads as query heads.
3. Of equal scores the earlier entry is kept; the code leaves that to `topk`.
4. Tokens that are verified together settle together: the scores take their rows in one sum, then eviction follows once.
5. The budget is a share of what the first prefill leaves in a layer; a later turn, or chunk, does not raise it.
6. Positions are those of the text; the code that rolls positions within the cache (`…_streaming`) is not followed.

B batch, H query heads, G key-value heads, R query rows, S entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.scores import accumulated_attention, carried_over
from lvlm_atlas.reference.ops.selection import recent_and_best
from lvlm_atlas.reference.refusal import Refusal


def select(score_BGS: Tensor, heavy: int, recent: int, visible_BGS: Tensor | None = None) -> Tensor:
    """True (B, G, S) at the recent entries and, of those before, at the `heavy` of highest accumulated attention.

    Args:
        score_BGS: accumulated attention.
        heavy: heavy hitters kept.
        recent: entries kept at the end.
        visible_BGS: False at padding, which is never kept; None means nowhere.
    """
    if visible_BGS is None:
        return recent_and_best(score_BGS, recent, heavy)
    return recent_and_best(score_BGS.masked_fill(~visible_BGS, float("-inf")), recent, heavy) & visible_BGS


@dataclass
class Accounts:
    """What the entries of each layer have received so far in a run."""

    heavy_ratio: float
    recent_ratio: float
    budgets: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each layer the heavy hitters and the recent entries that it may hold."""
    scores: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of each layer acc (B, G, S) and which token each entry is."""

    def evict(self, at: CacheStep) -> Tensor | None:
        """Which entries stay once tokens have settled; None: all, where they fit.

        Raises:
            Refusal: the ratios leave no entry at all.
        """
        held = at.held
        visible_BGS = held.visible_BGS
        if at.layer not in self.budgets:
            self.budgets[at.layer] = self._budget(held.length)
        heavy, recent = self.budgets[at.layer]
        index_BGS = held.index_BGS.masked_fill(~visible_BGS, -1)
        score_BGS = accumulated_attention(at.rows(slice(None)), index_BGS.shape[1])
        if at.layer in self.scores:
            score_BGS = score_BGS + carried_over(*self.scores[at.layer], index_BGS)
        self.scores[at.layer] = score_BGS, index_BGS
        if held.length <= heavy + recent:
            return None
        return select(score_BGS, heavy, recent, visible_BGS)

    def _budget(self, length: int) -> tuple[int, int]:
        heavy, recent = int(length * self.heavy_ratio), int(length * self.recent_ratio)
        if heavy + recent == 0:
            raise Refusal(
                f"heavy_ratio {self.heavy_ratio} and recent_ratio {self.recent_ratio} keep none of {length} entries"
            )
        return heavy, recent


@dataclass(frozen=True)
class H2O(Technique):
    """H2O at `cache-step`.

    Raises:
        ValueError: a parameter out of its range.
    """

    heavy_ratio: float = 0.1
    """Heavy hitters that a layer holds, as a share of the prompt's entries."""
    recent_ratio: float = 0.1
    """Recent entries that it holds, as a share of the prompt's."""

    acts_at: ClassVar = ("cache-step",)
    needs: ClassVar = ("attention-map", "equal-heads")

    def __post_init__(self) -> None:
        self.expect_shares("heavy_ratio", "recent_ratio")

    def begin(self, run: Run) -> Accounts:  # noqa: ARG002
        """Empty accounts for a run."""
        return Accounts(self.heavy_ratio, self.recent_ratio)
