"""Speculative sampling: a draft proposes γ tokens, the target checks them in one pass and keeps its distribution.

Paper: leviathan2023speculative, sec. 2.3 and algorithm 1; chen2023speculative, algorithm 2, is the same rule with
p and q exchanged. Symbols: γ → `gamma`; p_i → `target_MC`; q_i → `draft_MC`; x_i → `token_M`; r_i → `uniform_M`.
Temperature applies to p and q before anything else (sec. 2.2); greedy decoding is the case of one-hot p and q.

Departs:
1. If p − q is nowhere positive, which only rounding brings about after a rejection, the next token comes from p.
2. r_i is drawn from (0, 1] in float64, so that r_i = 0 cannot accept a token of probability 0.

M drafted tokens · C vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.draft import Draft, draft_prompt
from lvlm_atlas.reference.drafting.rounds import Proposal, Verdict, distribution, draw
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.lvlm.points import DecodeLoop, Technique


def verify(target_MC: Tensor, draft_MC: Tensor, token_M: Tensor, uniform_M: Tensor) -> tuple[int, Tensor]:
    """How many drafted tokens to accept, and the distribution (C,) of the token that follows them.

    Token i is accepted iff r_i ≤ p_i(x_i) / q_i(x_i) and all before it were. The next token comes from
    norm(max(0, p − q)) where one was rejected, from p after all of them otherwise.

    Args:
        target_MC: p, (γ + 1, C): after the text and after each drafted token.
        draft_MC: q, (γ, C): what each token was drawn from.
        token_M: drafted tokens (γ,).
        uniform_M: r, numbers (γ,) between 0 and 1.
    """
    target_MC = target_MC.double()
    draft_MC = draft_MC.to(target_MC)
    token_M1 = token_M.to(target_MC.device)[:, None]
    ratio_M = (target_MC[:-1].gather(1, token_M1) / draft_MC.gather(1, token_M1))[:, 0]
    accepted = int((uniform_M.to(target_MC) <= ratio_M).long().cumprod(0).sum())
    if accepted == len(token_M):
        return accepted, target_MC[accepted]
    rest_C = (target_MC[accepted] - draft_MC[accepted]).clamp(min=0)
    return accepted, rest_C / rest_C.sum() if rest_C.any() else target_MC[accepted]


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


@dataclass(frozen=True)
class SpeculativeSampling(Technique):
    """Speculative sampling at `decode-loop`.

    Raises:
        ValueError: no token to draft.
    """

    gamma: int = 4
    """Tokens γ drafted in a round."""
    draft: Target | None = field(default=None, repr=False)
    """The draft model; None lets the target draft for itself."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("draft-model", "same-vocabulary", "cache-rollback")

    def __post_init__(self) -> None:
        if self.gamma < 1:
            raise ValueError(f"gamma must be at least 1, got {self.gamma}")

    def begin_decoding(self, at: DecodeLoop) -> ChainDrafter:
        """The drafter of this request, its draft prefilled with the whole prompt."""
        run, request = at.run, at.run.request
        model, prompt = draft_prompt(self.draft, run.target, request, run.techniques, at.prefill.inputs)
        # Not the verifier's stream, which starts from `seed`: a draft drawn with the numbers that judge it is biased.
        generator = torch.Generator().manual_seed(~request.seed)
        return ChainDrafter(Draft(model, prompt, run.trace), self.gamma, request.temperature, generator)
