"""A draft model in the middle of a request: what techniques at `decode-loop` share.

M tokens of a pass · C vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.model import LVLM, Prefill
from lvlm_atlas.reference.lvlm.points import Stack
from lvlm_atlas.reference.lvlm.request import Request
from lvlm_atlas.reference.lvlm.states import Sequence
from lvlm_atlas.reference.lvlm.trace import Trace
from lvlm_atlas.reference.refusal import Refusal


def draft_prompt(
    draft: LVLM | None, target: LVLM, request: Request, prefill: Prefill, stack: Stack
) -> tuple[LVLM, Sequence]:
    """The model that drafts, and the prompt at its LLM's input.

    Without a draft model the target drafts for itself, from the prompt that it saw. A draft model encodes the
    request itself, with those techniques of the stack that act before the LLM.

    Raises:
        Refusal: draft and target have different vocabularies.
    """
    if draft is None:
        return target, prefill.inputs
    ours, theirs = target.config.text.vocab_size, draft.config.text.vocab_size
    if ours != theirs:
        raise Refusal(f"draft and target must share one vocabulary, got {theirs} and {ours} tokens")
    return draft, draft.prepare(request, stack, Trace())


class Draft:
    """A draft model with its cache. The cache holds what it read for good, then what it only guesses at."""

    def __init__(self, model: LVLM, prompt: Sequence, trace: Trace) -> None:
        self.model = model
        self.cache = model.prefill(prompt, Stack(), Trace()).cache
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
        """Logits (M, C) after tokens that may be taken back; parents as in `LVLM.step`."""
        self.trace.draft_passes += 1
        return self.model.step(token_M, self.cache, parent_M)

    def keep(self, count: int) -> None:
        """Take the oldest `count` guessed tokens, a chain, for read and forget the others."""
        self.cache.retain(torch.arange(count, device=self.model.device))
        self._read += count
