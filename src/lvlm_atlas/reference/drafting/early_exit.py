"""A draft by the target's own first layers, whose work the target's pass goes on with.

M drafted tokens, C vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from lvlm_atlas.reference.caches.cache import Cache
from lvlm_atlas.reference.drafting.chain import draw_chain
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verified
from lvlm_atlas.reference.drafting.target import Target


class EarlyExitDrafter(Drafter):
    """Up to γ tokens from the hidden state after layer n − 1 of the target.

    The keys and values of the first n layers go into the target's own cache. Its pass runs only the other layers on all
    tokens but the last drafted one, which no layer has seen yet: nothing is computed or held twice.

    Args:
        target: the model that answers.
        cache: its cache.
        layers: n, the layers that draft.
        gamma: γ, the most tokens drafted in a round.
        distribution: from logits to what is drawn from.
        generator: source of the draws.
        imitate: from what leaves the n layers (M, D) to what would leave the last one; the identity by default.
        stop_below: as in `draw_chain`.
    """

    def __init__(
        self,
        target: Target,
        cache: Cache,
        layers: int,
        gamma: int,
        distribution: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        imitate: Callable[[Tensor], Tensor] = lambda hidden_MD: hidden_MD,
        stop_below: float = 0.0,
    ) -> None:
        self.target, self.cache, self.layers, self.imitate = target, cache, layers, imitate
        self.gamma, self.distribution, self.generator, self.stop_below = gamma, distribution, generator, stop_below

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: a pass of the first layers a token."""

        def predict(last: int | None) -> Tensor:
            self.cache.trace.draft_passes += 1
            token_M = torch.tensor([tokens[-1] if last is None else last])
            states = self.target.hidden_states(token_M, self.cache, until=self.layers)
            return self.target.logits(self.imitate(states[-1]))[0]

        return draw_chain(predict, self.gamma, self.distribution, self.generator, self.stop_below)

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: the target's cache is the draft's, and the decode loop cuts it back."""
