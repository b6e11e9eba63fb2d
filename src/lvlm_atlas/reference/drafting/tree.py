"""A draft of a tree of tokens of fixed shape.

M drafted tokens, R nodes of a level, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verified

Shape = tuple[tuple[int, ...], ...]
"""A tree: for each depth, how many children the first, second, … node there gets; the others get none."""


def tree_parents(shape: Shape) -> Tensor:
    """The parent (M,) of each node, level by level; −1 is the root."""
    parents: list[int] = []
    level, nodes = [-1], 0
    for widths in shape:
        parents += [node for node, width in zip(level, widths, strict=False) for _ in range(width)]
        level = list(range(nodes, len(parents)))
        nodes = len(parents)
    return torch.tensor(parents)


def best_children(logits_RC: Tensor, widths: Seq[int]) -> Tensor:
    """The `width` likeliest tokens after each of R nodes, likeliest first, one node after the other."""
    return torch.cat([row_C.topk(width).indices for row_C, width in zip(logits_RC, widths, strict=True)])


class TreeDrafter(Drafter):
    """Drafts a tree of fixed shape; see `lvlm_atlas.reference.drafting.rounds.Drafter`."""

    def __init__(self, draft: Draft, shape: Shape) -> None:
        self.draft, self.shape, self.parent_M = draft, shape, tree_parents(shape)

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: one pass of the draft model a level; it reads only nodes that get children."""
        logits_RC = self.draft.read(tokens)[None]
        token_M = best_children(logits_RC, self.shape[0]).cpu()
        read: dict[int, int] = {-1: -1}  # place among the draft's unsettled tokens, by node
        level = 0
        for widths in self.shape[1:]:
            nodes = range(level, level + len(widths))
            level = len(token_M)
            parents = torch.tensor([read[int(self.parent_M[node])] for node in nodes])
            read |= {node: len(read) - 1 + i for i, node in enumerate(nodes)}
            logits_RC = self.draft.guess(token_M[nodes.start : nodes.stop], parents)
            token_M = torch.cat([token_M, best_children(logits_RC, widths).cpu()])
        one_hot_MC = functional.one_hot(token_M, logits_RC.shape[-1]).float()
        return Proposal(token_M, self.parent_M, one_hot_MC)

    def settle(self, verified: Verified) -> None:  # noqa: ARG002
        """See `Drafter`: the draft forgets the tree and reads the accepted tokens in the next round."""
        self.draft.keep(0)
