"""Rules of acceptance: lossless, relaxed by a stated amount, greedy; any of them judges any drafter's proposals.

M drafted tokens, C vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.rounds import Acceptance, Proposal, Verdict
from lvlm_atlas.reference.ops.sampling import draw
from lvlm_atlas.reference.ops.verification import accept, verify, verify_tree


@dataclass(frozen=True)
class RejectionSampling(Acceptance):
    """Speculative sampling: the answer keeps the target's distribution, or leaves it by a stated distance.

    Raises:
        ValueError: the relaxation is no probability.
    """

    relaxation: float = 0.0
    """ρ: a token that would be rejected is accepted all the same with this probability. Along a chain, tokens are then
    distributed as (1 − ρ)·p + ρ·q, which is ρ·TV(p, q) away from the target's p: ρ at most. 0 is lossless."""
    strict: tuple[int, ...] = ()
    """Tokens that are never accepted so, such as those that end the answer."""

    def __post_init__(self) -> None:
        if not 0 <= self.relaxation <= 1:
            raise ValueError(f"relaxation must lie in [0, 1], got {self.relaxation}")

    def judge(self, proposal: Proposal, target_MC: Tensor, generator: torch.Generator) -> Verdict:
        """See `Acceptance`: a number of the generator a node, in their order, then the token."""
        count = len(proposal.token_M)
        if count == 0:
            return Verdict((), draw(target_MC[0], generator))
        uniform_M = 1 - torch.rand(count, generator=generator, dtype=torch.float64)
        given, relaxation_M = (target_MC, proposal.probability_MC, proposal.token_M), None
        if self.relaxation:
            strict_M = torch.isin(proposal.token_M.cpu(), torch.tensor(self.strict, dtype=torch.long))
            relaxation_M = torch.where(strict_M, 0.0, self.relaxation).double()
        if proposal.parent_M.tolist() == list(range(-1, count - 1)):
            accepted, next_C = verify(*given, uniform_M, relaxation_M)
            path = tuple(range(accepted))
        else:
            path, next_C = verify_tree(*given, proposal.parent_M, uniform_M, relaxation_M)
        return Verdict(path, draw(next_C, generator))


@dataclass(frozen=True)
class GreedyMatch(Acceptance):
    """Accepts while the target would have said the same: greedy answers stay the target's own."""

    def judge(self, proposal: Proposal, target_MC: Tensor, generator: torch.Generator) -> Verdict:  # noqa: ARG002
        """See `Acceptance`."""
        return Verdict(*accept(proposal.token_M, proposal.parent_M, target_MC.argmax(-1)))
