"""Drafts of trees of tokens: of a fixed shape, or grown where the draft is sure.

Paper: li2024eagle2, sec. 4, for trees that grow; official repository, eagle/model/cnets1.py, `topK_genrate`.

M drafted tokens, R nodes of a level, A candidates, k children of a node, C vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.drafting.draft import Predictor
from lvlm_atlas.reference.drafting.rounds import Drafter, Proposal, Verified
from lvlm_atlas.reference.refusal import Refusal

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

    def __init__(self, draft: Predictor, shape: Shape) -> None:
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

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: the draft forgets the tree and reads the accepted tokens in the next round."""
        self.draft.keep(0)
        self.draft.learn(verified)


def children_of(logits_RC: Tensor, score_R: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens (R, k) after each of R nodes, and their scores: log-probabilities summed from the root.

    A score is never above that of its parent, so that a tree of the best scores holds the parents of all its nodes.
    """
    best = logits_RC.float().log_softmax(-1).topk(top_k)
    return best.indices, best.values.clamp(max=0) + score_R[:, None]


def best_of(score_A: Tensor, count: int) -> Tensor:
    """The places of the best scores, best first and of equal ones the earliest; all of them if there are no more."""
    return score_A.sort(descending=True, stable=True).indices[:count]


def grow(
    root_C: Tensor, expand: Callable[[Tensor, Tensor], Tensor], *, nodes: int, depth: int, top_k: int
) -> tuple[Tensor, Tensor]:
    """Tokens and parents (M,) of a tree that grows where the draft is sure, on the host.

    Each of the first `depth` levels holds the k likeliest children of each node that is expanded: the root, then on
    each level the k candidates of the best scores. Of all candidates those of the `nodes` best scores are the tree,
    level by level, the children of one node likeliest first.

    Args:
        root_C: the draft's logits after the text.
        expand: logits (k, C) after the tokens (k,) of the nodes that are expanded next, each of which follows the node
            of this place (k,) among those expanded so far; −1 is the root.
        nodes: N, the most nodes of the tree.
        depth: levels of candidates.
        top_k: k.
    """
    logits_RC, score_R = root_C[None], root_C.new_zeros(1, dtype=torch.float32)
    place_R = torch.tensor([-1])  # among all candidates, of the nodes that were expanded last
    expanded = 0
    tokens, scores, parents = [], [], []
    for level in range(depth):
        token_Rk, score_Rk = children_of(logits_RC, score_R, top_k)
        tokens.append(token_Rk.flatten().cpu())
        scores.append(score_Rk.flatten().cpu())
        parents.append(place_R.repeat_interleave(top_k))
        if level == depth - 1:
            break
        best_K = best_of(scores[-1], top_k)
        row_K = best_K // top_k  # of the level's parents
        follows_K = row_K + expanded - len(place_R) if level else torch.full_like(row_K, -1)
        logits_RC = expand(tokens[-1][best_K], follows_K)
        score_R = scores[-1][best_K].to(logits_RC.device)
        place_R = sum(map(len, tokens[:-1])) + best_K
        expanded += len(best_K)
    token_A, score_A, parent_A = (torch.cat(each) for each in (tokens, scores, parents))
    kept_M = best_of(score_A, nodes).sort().values
    # Of equal scores the earliest go first, and parents stand before their children: none is left out without them.
    parent_M = torch.searchsorted(kept_M, parent_A[kept_M])
    return token_A[kept_M], parent_M.where(parent_A[kept_M] >= 0, -1)


def grow_and_prune(
    root_C: Tensor, expand: Callable[[Tensor, Tensor], Tensor], *, nodes: int, depth: int, top_k: int
) -> tuple[Tensor, Tensor]:
    """Tokens and parents (M,) of a tree that is cut back to its best nodes each time that it has grown, on the host.

    The first level holds the N likeliest tokens. Then, D − 1 times, every node that was not expanded yet gets its k
    likeliest children, and of all nodes those of the N best scores stay; the tree is done early once none of them is
    new. Parents stand before their children, older nodes before newer ones.

    Args:
        root_C: the draft's logits after the text.
        expand: as in `grow`, for as many nodes as are new.
        nodes: N.
        depth: D, the most levels.
        top_k: k.
    """
    token_1k, score_1k = children_of(root_C[None], root_C.new_zeros(1, dtype=torch.float32), min(nodes, len(root_C)))
    token_A, score_A = token_1k[0].cpu(), score_1k[0].cpu()
    parent_A = torch.full_like(token_A, -1)
    place_A = torch.full_like(token_A, -1)  # among the nodes expanded so far; −1: not yet
    expanded = 0
    for _ in range(depth - 1):
        new_R = (place_A < 0).nonzero()[:, 0]
        if not len(new_R):
            break
        follows_R = place_A[parent_A[new_R]].where(parent_A[new_R] >= 0, -1)
        place_A[new_R] = expanded + torch.arange(len(new_R))
        expanded += len(new_R)
        logits_RC = expand(token_A[new_R], follows_R)
        token_Rk, score_Rk = children_of(logits_RC, score_A[new_R].to(logits_RC.device), top_k)
        token_A, score_A = (
            torch.cat([token_A, token_Rk.flatten().cpu()]),
            torch.cat([score_A, score_Rk.flatten().cpu()]),
        )
        parent_A = torch.cat([parent_A, new_R.repeat_interleave(top_k)])
        place_A = torch.cat([place_A, torch.full((top_k * len(new_R),), -1)])
        kept_M = best_of(score_A, nodes).sort().values
        parent_M = torch.searchsorted(kept_M, parent_A[kept_M]).where(parent_A[kept_M] >= 0, -1)
        token_A, score_A, parent_A, place_A = token_A[kept_M], score_A[kept_M], parent_M, place_A[kept_M]
    return token_A, parent_A


class Rule(Protocol):
    """How a tree grows."""

    def __call__(
        self, root_C: Tensor, expand: Callable[[Tensor, Tensor], Tensor], *, nodes: int, depth: int, top_k: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens and parents (M,) of a tree; arguments as in `grow`."""


class GrowingTreeDrafter(Drafter):
    """Drafts a tree that grows where the draft is sure; see `grow` and `lvlm_atlas.reference.drafting.rounds.Drafter`.

    Args:
        draft: what predicts.
        nodes: N, the most nodes of a tree.
        depth: its most levels, and the most passes of the draft.
        top_k: k.
        rule: how it grows: `grow` or `grow_and_prune`.
    """

    def __init__(self, draft: Predictor, nodes: int, depth: int, top_k: int, rule: Rule = grow) -> None:
        self.draft, self.nodes, self.depth, self.top_k, self.rule = draft, nodes, depth, top_k, rule

    def propose(self, tokens: Seq[int]) -> Proposal:
        """See `Drafter`: one pass of the draft over what it has not read yet, then one each time that it grows.

        Raises:
            Refusal: the vocabulary has fewer tokens than a node gets children.
        """
        root_C = self.draft.read(tokens)
        if len(root_C) < self.top_k:
            raise Refusal(f"a node gets {self.top_k} children, of a vocabulary of {len(root_C)}; lower the number")
        token_M, parent_M = self.rule(root_C, self.draft.guess, nodes=self.nodes, depth=self.depth, top_k=self.top_k)
        return Proposal(token_M, parent_M, functional.one_hot(token_M, len(root_C)).float())

    def settle(self, verified: Verified) -> None:
        """See `Drafter`: the draft forgets the tree, and learns what the target made of it."""
        self.draft.keep(0)
        self.draft.learn(verified)
