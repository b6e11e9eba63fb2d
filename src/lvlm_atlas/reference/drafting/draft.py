"""A draft model in the middle of a request.

M tokens of a pass · C vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, Protocol

import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.rounds import Verified
from lvlm_atlas.reference.drafting.target import Target
from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Sequence
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.refusal import Refusal


def draft_prompt(
    draft: Target | None, target: Target, request: Request, techniques: Seq[Any], inputs: Sequence
) -> tuple[Target, Sequence]:
    """The model that drafts, and the prompt at its LLM's input.

    Without a draft model the target drafts for itself, from the prompt that it read. A draft model encodes the
    request itself, with those techniques that act before the LLM.

    Args:
        draft: the draft model, if there is one.
        target: the model that answers.
        request: as it was asked.
        techniques: those of the run.
        inputs: the prompt that the target read.

    Raises:
        Refusal: draft and target have different vocabularies.
    """
    if draft is None:
        return target, inputs
    if draft.vocab_size != target.vocab_size:
        raise Refusal(
            f"draft and target must share one vocabulary, got {draft.vocab_size} and {target.vocab_size} tokens"
        )
    return draft, draft.prepare(draft.begin(request, techniques))


class Predictor(Protocol):
    """What predicts the tokens of a draft: a model with a cache of its own, or a head on the target's states."""

    def read(self, tokens: Seq[int]) -> Tensor:
        """Logits (C,) after `tokens`, the whole answer so far; a pass over those that it has not read yet."""

    def guess(self, token_M: Tensor, parent_M: Tensor | None = None) -> Tensor:
        """Logits (M, C) after tokens that may be taken back; parents as in `Target.step`."""

    def keep(self, count: int) -> None:
        """Take the oldest `count` guessed tokens, a chain, for read and forget the others."""

    def learn(self, verified: Verified) -> None:
        """What the target computed of the round that is over."""


class Draft(Predictor):
    """A draft model with its cache. The cache holds what it read for good, then what it only guesses at."""

    def __init__(self, model: Target, prompt: Sequence, trace: Trace) -> None:
        self.model = model
        self.cache = model.prefill(prompt).cache
        self.trace = trace
        self.trace.draft_tokens = prompt.length
        self._read = 0

    def read(self, tokens: Seq[int]) -> Tensor:
        """Logits (C,) after `tokens`, the whole answer so far; one pass over those that it has not read yet."""
        new = tokens[self._read :]
        logits_MC = self.guess(torch.tensor(new))
        self.keep(len(new))
        return logits_MC[-1]

    def guess(self, token_M: Tensor, parent_M: Tensor | None = None) -> Tensor:
        """Logits (M, C) after tokens that may be taken back; parents as in `Target.step`."""
        self.trace.draft_passes += 1
        return self.model.step(token_M, self.cache, parent_M)

    def keep(self, count: int) -> None:
        """Take the oldest `count` guessed tokens, a chain, for read and forget the others."""
        self.cache.retain(torch.arange(count, device=self.model.device))
        self._read += count

    def learn(self, verified: Verified) -> None:
        """See `Predictor`: a model reads tokens alone."""
