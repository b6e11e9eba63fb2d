"""A draft without a model: what followed the same words in the prompt or in the answer.

M drafted tokens, N tokens of the text.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verified


class CopyingDrafter(Drafter):
    """Drafts the chain that a look-up finds in the text so far.

    Args:
        prompt_N: the prompt's tokens.
        look_up: from the text (N,) to the tokens (M,) that are copied; none is an answer.
        vocabulary: tokens of the vocabulary.
    """

    def __init__(self, prompt_N: Tensor, look_up: Callable[[Tensor], Tensor], vocabulary: int) -> None:
        self.prompt_N, self.look_up, self.vocabulary = prompt_N, look_up, vocabulary

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: no pass of any model."""
        token_M = self.look_up(torch.cat([self.prompt_N, torch.tensor(tokens)]))
        return Proposal(token_M, torch.arange(len(token_M)) - 1, one_hot(token_M, self.vocabulary).float())

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: there is no cache to cut back."""
