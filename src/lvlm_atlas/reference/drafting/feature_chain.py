"""A draft of tokens one after the other by a head on the target's features.

M drafted tokens, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.chain import draw_chain
from lvlm_atlas.reference.drafting.draft import Predictor
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verified


class FeatureChainDrafter(Drafter):
    """Up to γ tokens one after the other; after each round the draft reads what was accepted beside what the target
    computed there, in place of what it guessed itself. Arguments as in `draw_chain`.
    """

    def __init__(
        self,
        draft: Predictor,
        gamma: int,
        distribution: Callable[[Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        self.draft, self.gamma, self.distribution, self.generator = draft, gamma, distribution, generator

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: a pass of the draft a token; it does not read the last token that it drafts."""

        def predict(last: int | None) -> Tensor:
            return self.draft.read(tokens) if last is None else self.draft.guess(torch.tensor([last]))[0]

        return draw_chain(predict, self.gamma, self.distribution, self.generator)

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: all guesses are forgotten, and the target's states are learnt."""
        self.draft.keep(0)
        self.draft.learn(verified)
