"""Inf-MLLM: a cache of constant size holds the recent entries and those that the latest queries attend to most.

Paper: ning2024infmllm, of which the abstract and summaries could be read: the two kinds of entries, the local sum over
a retrieval window, and a bias towards the newer ones; its formulas could not. Symbols, ours: recent entries → `recent`,
relevant ones (attention saddles) → `relevant`, window of queries → `retrieval_window`, strength of the bias → `bias`.

Departs:
1. The bias is a ramp: `bias` · (rank − ½) is added to the relevance of each entry, where the rank runs from 0 for the
   oldest entry to 1 for the newest. The paper has a bias of this kind; its form is ours, and so are all defaults.
2. Each key-value head chooses by the mean over its query heads.
3. Keys are held as they are before rotary and turned by their places in the cache (`unrotated-keys`), as in
   StreamingLLM: positions of endless text would leave what a model was trained on. The summaries do not say.
4. Of equal relevance the earlier entry is kept.
5. Tokens that are verified together settle together, and eviction follows once.

B batch, H query heads, G key-value heads, R query rows, W rows of the window, S entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import CacheStep
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.scores import carried_over
from lvlm_atlas.reference.ops.selection import recent_and_best
from lvlm_atlas.reference.refusal import Refusal


def local_rows(row_BGRS: Tensor, window: int, index_BGS: Tensor, before: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The rows (B, G, W, S) of the latest `window` queries over the entries held now, oldest first; fewer if so many
    have not been.

    Args:
        row_BGRS: softmax rows of the newest queries.
        window: queries that count.
        index_BGS: which token each entry is; ascending.
        before: the rows (B, G, W, K) of the queries before, and which tokens (B, G, K) the entries then were.
    """
    latest_BGMS = row_BGRS[:, :, -window:]
    left = window - latest_BGMS.shape[2]
    if before is None or not left:
        return latest_BGMS
    old_BGWK, then_BGK = before[0][:, :, -left:], before[1]
    rows = [carried_over(old_BGWK[:, :, row], then_BGK, index_BGS) for row in range(old_BGWK.shape[2])]
    return torch.cat([torch.stack(rows, dim=2), latest_BGMS], dim=2)


def relevance(row_BGWS: Tensor, bias: float, visible_BGS: Tensor) -> Tensor:
    """What the latest queries pay to each entry (B, G, S), their sum, and a bias towards the newer entries.

    Args:
        row_BGWS: softmax rows of the latest queries.
        bias: what the newest entry has more than the oldest; 0 is the plain sum.
        visible_BGS: False at padding, which gets −∞ and no rank.
    """
    rank_BGS = visible_BGS.long().cumsum(dim=2) - 1
    ramp_BGS = rank_BGS / rank_BGS[:, :, -1:].clamp(min=1) - 0.5
    return (row_BGWS.sum(dim=2) + bias * ramp_BGS).masked_fill(~visible_BGS, float("-inf"))


@dataclass
class Saddles:
    """The latest rows of each layer in a run or session."""

    setting: InfMllm
    rows: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of each layer rows (B, G, W, S) and which token each entry is."""

    def evict(self, at: CacheStep) -> Tensor | None:
        """Which entries stay once tokens have settled; None: all, where they fit.

        Raises:
            Refusal: heads hold different numbers of entries.
        """
        setting, visible_BGS = self.setting, at.held.visible_BGS
        if at.held.real_BGS is not None and at.held.real_BGS.shape[1] > 1:
            raise Refusal(
                f"Inf-MLLM holds as many entries in every head, and those of layer {at.layer} hold different numbers; "
                f"leave out what gives each head a number of its own"
            )
        index_BGS = at.held.index_BGS.masked_fill(~visible_BGS, -1)
        weight_BHRS = at.rows(slice(-setting.retrieval_window, None))
        groups = index_BGS.shape[1]
        row_BGRS = torch.unflatten(weight_BHRS, 1, (groups, -1)).mean(dim=2)
        row_BGWS = local_rows(row_BGRS, setting.retrieval_window, index_BGS, self.rows.get(at.layer))
        self.rows[at.layer] = row_BGWS, index_BGS
        if at.held.length <= setting.recent + setting.relevant:
            return None
        score_BGS = relevance(row_BGWS, setting.bias, visible_BGS)
        return recent_and_best(score_BGS, setting.recent, setting.relevant) & visible_BGS


@dataclass(frozen=True)
class InfMllm(Technique):
    """Inf-MLLM at `cache-step`.

    Raises:
        ValueError: a parameter out of its range.
    """

    recent: int = 1024
    """Entries kept at the end."""
    relevant: int = 1024
    """Entries kept before them, those of highest relevance."""
    retrieval_window: int = 32
    """Latest queries whose attention makes an entry relevant."""
    bias: float = 0.1
    """How much relevance the newest entry has more than the oldest, in attention weights."""

    acts_at: ClassVar = ("cache-step",)
    needs: ClassVar = ("attention-row", "unrotated-keys", "equal-heads")

    def __post_init__(self) -> None:
        for name, least in (("recent", 1), ("relevant", 0), ("retrieval_window", 1), ("bias", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def begin(self, run: Run) -> Saddles:  # noqa: ARG002
        """What cuts the cache in this run or session."""
        return Saddles(self)
