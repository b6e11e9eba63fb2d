"""A draft of tokens one after the other, drawn and verified so that the target keeps its distribution.

M drafted tokens, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import Proposal, Verdict, distribution, draw
from lvlm_atlas.reference.ops.verification import verify


class ChainDrafter:
    """Drafts γ tokens one after the other; see `lvlm_atlas.reference.drafting.rounds.Drafter`."""

    def __init__(self, draft: Draft, gamma: int, temperature: float, generator: torch.Generator) -> None:
        self.draft, self.gamma, self.temperature, self.generator = draft, gamma, temperature, generator

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: γ passes of the draft model; it does not read the last token that it drafts."""
        drafted: list[int] = []
        probabilities = []
        logits_C = self.draft.read(tokens)
        for _ in range(self.gamma):
            if drafted:
                logits_C = self.draft.guess(torch.tensor(drafted[-1:]))[0]
            probabilities.append(distribution(logits_C, self.temperature))
            drafted.append(draw(probabilities[-1], self.generator))
        return Proposal(torch.tensor(drafted), torch.arange(self.gamma) - 1, torch.stack(probabilities))

    def verify(self, proposal: Proposal, target_MC: Tensor, generator: torch.Generator) -> Verdict:
        """See `Drafter`: both caches go back to the accepted tokens."""
        uniform_M = 1 - torch.rand(self.gamma, generator=generator, dtype=torch.float64)
        accepted, next_C = verify(target_MC, proposal.probability_MC, proposal.token_M, uniform_M)
        self.draft.keep(min(accepted, self.gamma - 1))
        return Verdict(tuple(range(accepted)), draw(next_C, generator))
