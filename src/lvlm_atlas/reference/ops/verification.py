"""Which drafted tokens to accept.

Paper: leviathan2023speculative, algorithm 1, for `verify`; ji2025specvlm, official repository, for `accept`.

M drafted tokens, γ of them in a chain, C vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def verify(target_MC: Tensor, draft_MC: Tensor, token_M: Tensor, uniform_M: Tensor) -> tuple[int, Tensor]:
    """How many drafted tokens to accept, and the distribution (C,) of the token that follows them.

    Token i is accepted iff r_i ≤ p_i(x_i) / q_i(x_i) and all before it were. The next token comes from
    norm(max(0, p − q)) where one was rejected, from p after all of them otherwise.

    Args:
        target_MC: p, (γ + 1, C): after the text and after each drafted token.
        draft_MC: q, (γ, C): what each token was drawn from.
        token_M: drafted tokens (γ,).
        uniform_M: r, numbers (γ,) between 0 and 1.
    """
    target_MC = target_MC.double()
    draft_MC = draft_MC.to(target_MC)
    token_M1 = token_M.to(target_MC.device)[:, None]
    ratio_M = (target_MC[:-1].gather(1, token_M1) / draft_MC.gather(1, token_M1))[:, 0]
    accepted = int((uniform_M.to(target_MC) <= ratio_M).long().cumprod(0).sum())
    if accepted == len(token_M):
        return accepted, target_MC[accepted]
    rest_C = (target_MC[accepted] - draft_MC[accepted]).clamp(min=0)
    return accepted, rest_C / rest_C.sum() if rest_C.any() else target_MC[accepted]


def accept(token_M: Tensor, parent_M: Tensor, choice_M: Tensor) -> tuple[tuple[int, ...], int]:
    """The path of nodes that the target would have said itself, and the token it says next.

    Args:
        token_M: drafted tokens; children of one node differ.
        parent_M: parent of each; −1 is the root.
        choice_M: (1 + M,) the target's greedy token after the root and after each node.
    """
    child = {edge: node for node, edge in enumerate(zip(parent_M.tolist(), token_M.tolist(), strict=True))}
    choice, path = choice_M.tolist(), [-1]
    while (path[-1], choice[path[-1] + 1]) in child:
        path.append(child[path[-1], choice[path[-1] + 1]])
    return tuple(path[1:]), choice[path[-1] + 1]
