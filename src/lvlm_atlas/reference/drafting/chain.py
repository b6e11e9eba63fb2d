"""A draft of tokens one after the other, as long as it is wanted or as the draft is sure.

M drafted tokens, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verified
from lvlm_atlas.reference.ops.sampling import draw


def draw_chain(
    predict: Callable[[int | None], Tensor],
    gamma: int,
    distribution: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    stop_below: float = 0.0,
) -> Proposal:
    """A chain of 1 to γ tokens, each drawn from what is predicted after the one before.

    Args:
        predict: logits (C,) after the text (None), then after each token drafted.
        gamma: γ, the most tokens.
        distribution: from logits to what is drawn from.
        generator: source of the draws. Not the verifier's: a draft drawn with the numbers that judge it is biased.
        stop_below: the draft ends with the first token that it gave a smaller probability than this. That token stays:
            to drop it for what it is would leave the target another distribution.
    """
    drafted: list[int] = []
    probabilities = []
    while len(drafted) < gamma:
        probabilities.append(distribution(predict(drafted[-1] if drafted else None)))
        drafted.append(draw(probabilities[-1], generator))
        if float(probabilities[-1][drafted[-1]]) < stop_below:
            break
    return Proposal(torch.tensor(drafted), torch.arange(len(drafted)) - 1, torch.stack(probabilities))


class ChainDrafter(Drafter):
    """A draft model drafts up to γ tokens one after the other; arguments as in `draw_chain`."""

    def __init__(
        self,
        draft: Draft,
        gamma: int,
        distribution: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        stop_below: float = 0.0,
    ) -> None:
        self.draft, self.gamma, self.distribution, self.generator = draft, gamma, distribution, generator
        self.stop_below = stop_below

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: a pass of the draft model a token; it does not read the last token that it drafts."""

        def predict(last: int | None) -> Tensor:
            return self.draft.read(tokens) if last is None else self.draft.guess(torch.tensor([last]))[0]

        return draw_chain(predict, self.gamma, self.distribution, self.generator, self.stop_below)

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: the cache goes back to the accepted tokens."""
        self.draft.keep(min(len(verified.verdict.path), len(verified.proposal.token_M) - 1))
