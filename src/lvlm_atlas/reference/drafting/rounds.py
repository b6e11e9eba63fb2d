"""The decode loop's rounds: a drafter proposes tokens, a rule of acceptance judges them by what the target says.

Plain decoding is a round with nothing proposed.

M drafted tokens of a round, C vocabulary, D width.
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
    """The draft's distribution from which each token was drawn, given the siblings before it; one-hot where it was not
    drawn."""

    @classmethod
    def none(cls, vocabulary: int) -> Proposal:
        """Nothing proposed."""
        empty = torch.empty(0, dtype=torch.long)
        return cls(empty, empty, torch.empty(0, vocabulary))


@dataclass(frozen=True)
class Verdict:
    """What the target makes of a proposal."""

    path: tuple[int, ...]
    """Accepted nodes, each the child of the one before."""
    token: int
    """The token that follows them, the target's own."""


@dataclass(frozen=True)
class Verified:
    """A round that was judged, as its drafter learns of it. Row 0 is the root, row 1 + node each node."""

    proposal: Proposal
    verdict: Verdict
    logits_MC: Tensor
    """The target's logits (1 + M, C)."""
    states: tuple[Tensor, ...]
    """The target's hidden states (1 + M, D): what entered each LLM layer, then what left the last, before the norm."""

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of the root and of the accepted nodes, which the text now holds."""
        return (0, *(node + 1 for node in self.verdict.path))


class Drafter(Protocol):
    """Drafts for one request."""

    def propose(self, tokens: Seq[int]) -> Proposal:
        """Nodes that may follow `tokens`, all that was generated so far (at least one)."""

    def settle(self, verified: Verified) -> None:
        """Go back to what was accepted; what the target computed on the way may be kept for the next round."""


class Acceptance(Protocol):
    """A rule of acceptance."""

    def judge(self, proposal: Proposal, target_MC: Tensor, generator: torch.Generator) -> Verdict:
        """Which drafted tokens to accept, and the token that follows them.

        Args:
            proposal: what the drafter proposed.
            target_MC: the target's distribution after the root (row 0) and after each node (row 1 + node).
            generator: source of randomness, on the CPU.
        """


@dataclass(frozen=True)
class Speculation:
    """What decodes: a drafter, and the rule by which its drafts are accepted."""

    drafter: Drafter
    acceptance: Acceptance


def ancestors(parent_M: Tensor) -> Tensor:
    """(1 + M, 1 + M), True where a node (row) descends from or is a node (column); row and column 0 are the root."""
    seen = torch.eye(len(parent_M) + 1, dtype=torch.bool)
    for node, parent in enumerate(parent_M.tolist()):
        seen[node + 1] |= seen[parent + 1]
    return seen


class PlainDrafter(Drafter):
    """Proposes nothing: one token a round."""

    def __init__(self, vocabulary: int) -> None:
        self._nothing = Proposal.none(vocabulary)

    def propose(self, tokens: Seq[int]) -> Proposal:  # noqa: ARG002
        """See `Drafter`."""
        return self._nothing

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: there is nothing to take back."""
