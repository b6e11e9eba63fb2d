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

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.chain import ChainDrafter
from lvlm_atlas.reference.drafting.draft import Draft, draft_prompt
from lvlm_atlas.reference.drafting.rounds import Speculation
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.modules.draft_model import draft_model
from lvlm_atlas.reference.ops.verification import verify  # noqa: F401 - steps of the entry


@dataclass(frozen=True)
class SpeculativeSampling(Technique):
    """Speculative sampling at `decode-loop`.

    Raises:
        ValueError: no token to draft.
    """

    gamma: int = 4
    """Tokens γ drafted in a round."""
    draft: Target | None = field(default=None, repr=False)
    """The draft model; None takes the one that was given to the model of the run, else the target itself."""

    acts_at: ClassVar = ("decode-loop",)
    needs: ClassVar = ("draft-model", "same-vocabulary", "cache-rollback")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "gamma")

    def begin_decoding(self, at: DecodeLoop) -> Speculation:
        """The drafter of this request, its draft prefilled with the whole prompt."""
        run, request = at.run, at.run.request
        small = draft_model(self.draft, run)
        model, prompt = draft_prompt(small, run.target, request, run.techniques, at.prefill.inputs)
        # Not the verifier's stream, which starts from `seed`: a draft drawn with the numbers that judge it is biased.
        generator = torch.Generator().manual_seed(~request.seed)
        drafter = ChainDrafter(Draft(model, prompt, run.trace), self.gamma, request.distribution, generator)
        return Speculation(drafter, RejectionSampling())
