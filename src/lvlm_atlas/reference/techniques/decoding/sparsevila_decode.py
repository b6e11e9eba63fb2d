"""SparseVILA while decoding: of the cached vision entries an answer reads only those that its question attends to.

Paper: khaki2025sparsevila, of which the abstract and notes of third parties could be read; there is no code. Symbols:
share of the vision entries that is not read → `sparsity`. What is dropped before the LLM is the entry `sparsevila`.

Departs:
1. The number that is read is exact, round((1 − `sparsity`) · entries) and one at least; the notes cut at a quantile,
   which reads fewer where salience is equal. Of equal entries the earlier one is read.
2. Entries that are read lie where they lie; the paper packs them once a turn, so that each step reads one stretch.
3. Salience is renormalised from the layer's own rows, which equals a softmax over the vision entries alone.

B batch, H query heads, G key-value heads, R question tokens, S entries, V vision tokens of the map, K vision entries,
C chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.flow.states import Entries, Held
from lvlm_atlas.reference.lvlm.contexts import CacheRead, CacheTokens
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.places import places_of, take
from lvlm_atlas.reference.ops.scores import carried_over
from lvlm_atlas.reference.ops.selection import top_places
from lvlm_atlas.reference.refusal import Refusal


def salience(weight_BHRK: Tensor) -> Tensor:
    """What a question attends to (B, K): each row over the vision entries alone, summed over rows, mean over heads.

    Args:
        weight_BHRK: softmax rows of the question, their columns of vision entries.
    """
    share_BHRK = weight_BHRK / weight_BHRK.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weight_BHRK.dtype).tiny)
    return share_BHRK.sum(dim=2).mean(dim=1)


def read_count(entries: int, sparsity: float) -> int:
    """Of so many vision entries how many are read: round((1 − sparsity) · entries), one at least, 0 of none."""
    return max(min(1, entries), round(entries * (1 - sparsity)))


@dataclass(frozen=True)
class SparseVilaDecode(Technique):
    """The retrieval of SparseVILA, at `cache-tokens` for the question and at `cache-read` for the answer.

    Raises:
        ValueError: sparsity out of its range.
    """

    sparsity: float = 0.75
    """Share of the vision entries that a decoding step does not read."""

    acts_at: ClassVar = ("cache-tokens", "cache-read")
    needs: ClassVar = ("attention-row", "modality-mask", "vision-in-sequence")

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")

    def begin(self, run: Run) -> Turn | SparseVilaDecode:
        """What the question of a turn wants; at sparsity 0, nothing."""
        return Turn(self, run) if self.sparsity else self

    def compress_cache(self, at: CacheTokens) -> Entries:
        """All entries: nothing is left out at sparsity 0."""
        return at.entries

    def choose_entries(self, at: CacheRead) -> Tensor | None:  # noqa: ARG002
        """All entries."""
        return None


@dataclass
class Turn:
    """SparseVILA in the turn of a run or session that is read or answered."""

    setting: SparseVilaDecode
    run: Run
    held: dict[int, Held] = field(default_factory=dict)
    """What each layer held before the prompt of the turn."""
    scores: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of each layer the salience (B, K) of the vision tokens, and which they are."""
    chosen: dict[int, Tensor] = field(default_factory=dict)
    """Of each layer the vision tokens (B, G, C) that the answer reads, ascending."""

    def compress_cache(self, at: CacheTokens) -> Entries:
        """All entries; the salience of vision tokens for the question is noted.

        Raises:
            Refusal: another technique has evicted entries of this layer before, or no text stands behind the pictures.
        """
        entries, prompt, held = at.entries, self.run.prompt, self.held.pop(at.layer, None)
        self.chosen.pop(at.layer, None)
        self.scores.pop(at.layer, None)
        if prompt is None:
            return entries
        vision_N = prompt.vision_BN[0].cpu()
        rows = len(vision_N) - (int(vision_N.nonzero()[-1, 0]) + 1 if bool(vision_N.any()) else 0)
        if not rows:
            raise Refusal("SparseVILA reads what a question attends to; put text behind the pictures")
        vision_BS, index_BS = entries.vision_BGS[:, 0], entries.index_BGS[:, 0]
        if held is not None:
            vision_BS = torch.cat([held.vision_BGS[:, 0], vision_BS], dim=1)
            index_BS = torch.cat([held.index_BGS[:, 0], index_BS], dim=1)
        weight_BHRS = at.probe.rows(slice(-rows, None), earlier=True)
        if weight_BHRS.shape[-1] != vision_BS.shape[1]:
            raise Refusal(
                f"the attention rows have {weight_BHRS.shape[-1]} columns for {vision_BS.shape[1]} entries; put "
                f"SparseVILA before the technique that evicts the others"
            )
        place_BK = places_of(vision_BS)
        if place_BK.shape[1]:
            wide_BHRK = place_BK[:, None, None].expand(*weight_BHRS.shape[:3], -1)
            self.scores[at.layer] = salience(weight_BHRS.gather(3, wide_BHRK)), take(index_BS, place_BK)
        return entries

    def choose_entries(self, at: CacheRead) -> Tensor | None:
        """All entries for a prompt; for an answer, text and what was chosen for its question.

        Raises:
            Refusal: heads hold different numbers of vision entries.
        """
        if at.sequence is not None:
            self.held[at.layer] = at.held()
            return None
        if at.layer not in self.scores:
            return None
        held = at.held()
        visible_BGS = held.visible_BGS
        try:
            if at.layer not in self.chosen:
                self.chosen[at.layer] = self._choose(at.layer, held)
            chosen_BGC = self.chosen[at.layer]
            wanted_BGS = carried_over(torch.ones_like(chosen_BGC, dtype=torch.float), chosen_BGC, held.index_BGS) > 0
            return places_of(visible_BGS & (~held.vision_BGS | wanted_BGS))
        except ValueError as error:
            raise Refusal(
                f"SparseVILA reads as many vision entries in every head, and those of layer {at.layer} hold different "
                f"numbers; leave out what evicts some of one head"
            ) from error

    def _choose(self, layer: int, held: Held) -> Tensor:
        """The vision tokens (B, G, C) of those held that the question attends to most.

        Raises:
            ValueError: heads hold different numbers.
        """
        index_BGK = take(held.index_BGS, places_of(held.vision_BGS & held.visible_BGS))
        score_BGV, token_BGV = (x[:, None].expand(-1, index_BGK.shape[1], -1) for x in self.scores[layer])
        count = read_count(index_BGK.shape[2], self.setting.sparsity)
        return take(index_BGK, top_places(carried_over(score_BGV, token_BGV, index_BGK), count))
