"""A draft of several tokens a pass: a head that predicts the features of the next k places at once.

M tokens of a pass, R rows, K tokens of a block, J heads, S cached entries, C vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import PlainStore
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verified
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.ops.attention import attend, causal_mask
from lvlm_atlas.reference.ops.sampling import draw


class BlockHead(Protocol):
    """A head with one attention layer on the target's features."""

    def enter(self, embed_MD: Tensor, feature_MD: Tensor) -> Tensor:
        """What enters it (M, D) at tokens, from their embeddings and the features before them."""

    def project(self, x_BND: Tensor, position_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of what enters."""

    def predict(self, attended_BJNd: Tensor) -> Tensor:
        """Features (B, N, K, D) of the next K places, from what attention gave."""


class BlockDraft:
    """A head with its cache in the middle of a request; rows stand at positions 0, 1 and so on.

    Args:
        target: whose features it reads.
        head: predicts those of the next places.
        rows_RD: what enters the head of the prompt, for all that precedes the answer's first token.
        feature_1D: the target's feature at the prompt's end.
        trace: where passes are counted.
    """

    def __init__(self, target: Target, head: BlockHead, rows_RD: Tensor, feature_1D: Tensor, trace: Trace) -> None:
        self.target, self.head, self.trace = target, head, trace
        self.store = PlainStore()
        self._known_KD, self._read = feature_1D, 0
        """The target's features before the tokens that are read next, and how many tokens have been read."""
        if len(rows_RD):
            self._pass(rows_RD)
            self.store.settle()

    def read(self, tokens: Seq[int]) -> Tensor:
        """Features (K, D) of the places after `tokens`, the whole answer so far, read beside the target's features."""
        new = torch.tensor(tokens[self._read :])
        features_KD = self._counted(self.head.enter(self.target.embed(new), self._known_KD))
        self.store.settle()
        self._read = len(tokens)
        return features_KD

    def guess(self, token_K: Tensor, feature_KD: Tensor) -> Tensor:
        """Features (K, D) of the places after drafted tokens, read beside the head's own features that gave them."""
        return self._counted(self.head.enter(self.target.embed(token_K), feature_KD))

    def learn(self, verified: Verified) -> None:
        """Forget what was guessed, and take the target's features of what was accepted."""
        rows = torch.tensor(verified.rows, device=self._known_KD.device)
        self.store.retain(rows[:0])
        self._known_KD = self.target.final_norm(verified.states[-1][rows])

    def _counted(self, entered_MD: Tensor) -> Tensor:
        self.trace.draft_passes += 1
        return self._pass(entered_MD)

    def _pass(self, entered_MD: Tensor) -> Tensor:
        """Features (K, D) behind the last row; the entries are added to the cache, unsettled."""
        cached, count, device = self.store.length, len(entered_MD), entered_MD.device
        position_1M = torch.arange(cached, cached + count, device=device)[None]
        query, *entries = self.head.project(entered_MD[None], position_1M)
        self.store.append(*entries)
        attended = attend(query, *self.store.read(), causal_mask(count, device, cached))
        return self.head.predict(attended[:, :, -1:])[0, 0]


class BlockDrafter(Drafter):
    """Drafts a chain in blocks: of the tokens of one block none knows the others.

    Args:
        draft: predicts the features of a block.
        passes: blocks in a round.
        distribution: from logits to what is drawn from.
        generator: source of the draws. Not the verifier's: a draft drawn with the numbers that judge it is biased.
    """

    def __init__(
        self, draft: BlockDraft, passes: int, distribution: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> None:
        self.draft, self.passes, self.distribution, self.generator = draft, passes, distribution, generator

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: a pass a block."""
        feature_KD = self.draft.read(tokens)
        token_K, probability_KC = self._drawn(feature_KD)
        drafted, probabilities = [token_K], [probability_KC]
        for _ in range(self.passes - 1):
            feature_KD = self.draft.guess(token_K, feature_KD)
            token_K, probability_KC = self._drawn(feature_KD)
            drafted.append(token_K)
            probabilities.append(probability_KC)
        token_M = torch.cat(drafted)
        return Proposal(token_M, torch.arange(len(token_M)) - 1, torch.cat(probabilities))

    def _drawn(self, feature_KD: Tensor) -> tuple[Tensor, Tensor]:
        """A token of each feature, and the distributions (K, C) from which they are drawn, each on its own."""
        probability_KC = self.distribution(self.draft.target.head(feature_KD))
        return torch.tensor([draw(row_C, self.generator) for row_C in probability_KC]), probability_KC

    def settle(self, verified: Verified) -> None:
        """See `Drafter`."""
        self.draft.learn(verified)
