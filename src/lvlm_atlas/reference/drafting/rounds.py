"""The decode loop: propose, verify, settle. Plain decoding is a round with nothing proposed.

M drafted tokens of a round, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Proposal:
    """Drafted tokens, as a tree whose root is the last token of the text."""

    token_M: Tensor
    parent_M: Tensor
    """Node each one follows; −1 is the root. Parents stand before their children."""
    probability_MC: Tensor
    """The draft's distribution from which each token was drawn (one-hot where it was not drawn)."""


@dataclass(frozen=True)
class Verdict:
    """What the target makes of a proposal."""

    path: tuple[int, ...]
    """Accepted nodes, each the child of the one before."""
    token: int
    """The token that follows them, the target's own."""


class Drafter(Protocol):
    """Drafts and verifies for one request."""

    def propose(self, tokens: Seq[int]) -> Proposal:
        """Nodes that may follow `tokens`, all that was generated so far (at least one)."""

    def verify(self, proposal: Proposal, target_MC: Tensor, generator: torch.Generator) -> Verdict:
        """Judge the proposal.

        Args:
            proposal: what `propose` gave.
            target_MC: the target's distribution after the root (row 0) and after each node (row 1 + node).
            generator: source of randomness, on the CPU.
        """


def distribution(logits: Tensor, temperature: float) -> Tensor:
    """Next-token distribution (…, C) in float32: softmax(logits / T), or one-hot at the argmax if T = 0."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    return (logits.float() / temperature).softmax(-1)


def draw(probability_C: Tensor, generator: torch.Generator) -> int:
    """A token from a distribution. The draw is on the CPU, so that devices agree."""
    return int(torch.multinomial(probability_C.double().cpu(), 1, generator=generator))


def ancestors(parent_M: Tensor) -> Tensor:
    """(1 + M, 1 + M), True where a node (row) descends from or is a node (column); row and column 0 are the root."""
    seen = torch.eye(len(parent_M) + 1, dtype=torch.bool)
    for node, parent in enumerate(parent_M.tolist()):
        seen[node + 1] |= seen[parent + 1]
    return seen


class PlainDrafter:
    """Proposes nothing: one token a round, drawn from the target."""

    def __init__(self, vocabulary: int) -> None:
        none = torch.empty(0, dtype=torch.long)
        self._nothing = Proposal(none, none, torch.empty(0, vocabulary))

    def propose(self, tokens: Seq[int]) -> Proposal:  # noqa: ARG002
        """See `Drafter`."""
        return self._nothing

    def verify(self, proposal: Proposal, target_MC: Tensor, generator: torch.Generator) -> Verdict:  # noqa: ARG002
        """See `Drafter`."""
        return Verdict((), draw(target_MC[0], generator))
