"""Which drafted tokens to accept.

Paper: leviathan2023speculative, algorithm 1, for `verify`; ji2025specvlm, official repository, for `accept`;
`verify_tree` tries the children of a node one after the other, each by the same rule against what the ones before left
of the target's distribution.

M drafted tokens, γ of them in a chain, R = M + 1 rows: after the text and after each of them, C vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def verify(
    target_RC: Tensor, draft_MC: Tensor, token_M: Tensor, uniform_M: Tensor, relaxation_M: Tensor | None = None
) -> tuple[int, Tensor]:
    """How many drafted tokens to accept, and the distribution (C,) of the token that follows them.

    Token i is accepted iff r_i ≤ p_i(x_i) / q_i(x_i) and all before it were. The next token comes from
    norm(max(0, p − q)) where one was rejected, from p after all of them otherwise.

    Args:
        target_RC: p, (γ + 1, C): after the text and after each drafted token.
        draft_MC: q, (γ, C): what each token was drawn from.
        token_M: drafted tokens (γ,).
        uniform_M: r, numbers (γ,) between 0 and 1.
        relaxation_M: ρ_i, how likely x_i is accepted where it would be rejected: (1 − ρ)·p(x) + ρ·q(x) takes the place
            of p(x). None: never.
    """
    target_RC = target_RC.double()
    draft_MC = draft_MC.to(target_RC)
    token_M1 = token_M.to(target_RC.device)[:, None]
    drawn_M1 = draft_MC.gather(1, token_M1)
    ratio_M = (target_RC[:-1].gather(1, token_M1) / drawn_M1)[:, 0]
    ratio_M = relaxed(ratio_M, relaxation_M)
    accepted = int((uniform_M.to(target_RC) <= ratio_M).long().cumprod(0).sum())
    if accepted == len(token_M):
        return accepted, target_RC[accepted]
    return accepted, rest(target_RC[accepted], draft_MC[accepted])


def verify_tree(
    target_RC: Tensor,
    draft_MC: Tensor,
    token_M: Tensor,
    parent_M: Tensor,
    uniform_M: Tensor,
    relaxation_M: Tensor | None = None,
) -> tuple[tuple[int, ...], Tensor]:
    """The path of nodes to accept, and the distribution (C,) of the token that follows them.

    The children of a node are tried in order: x of q is accepted iff r ≤ p(x) / q(x), else norm(max(0, p − q)) takes
    the place of p for the next child, and for the token that follows if it was the last. Lossless where each child was
    drawn from its q given the siblings before it: independently, without replacement, or not at all (q one-hot; then a
    rejected token is struck out of p). On a chain it is `verify`.

    Args:
        target_RC: p, (1 + M, C): after the root and after each node.
        draft_MC: q, (M, C): what each token was drawn from.
        token_M: drafted tokens.
        parent_M: parent of each; −1 is the root.
        uniform_M: r, numbers between 0 and 1.
        relaxation_M: as in `verify`, for each child that is tried.
    """
    target_RC = target_RC.double()
    draft_MC = draft_MC.to(target_RC)
    tokens, parents, uniform = token_M.tolist(), parent_M.tolist(), uniform_M.tolist()
    path: list[int] = []
    left_C, node = target_RC[0], -1
    while True:
        for child in (child for child, parent in enumerate(parents) if parent == node):
            ratio = left_C[tokens[child]] / draft_MC[child, tokens[child]]
            if uniform[child] <= relaxed(ratio, None if relaxation_M is None else relaxation_M[child]):
                path.append(child)
                left_C, node = target_RC[child + 1], child
                break
            left_C = rest(left_C, draft_MC[child])
        else:
            return tuple(path), left_C


def relaxed(ratio: Tensor, relaxation: Tensor | None) -> Tensor:
    """P / q with (1 − ρ)·p + ρ·q in the place of p; as it is without ρ."""
    return ratio if relaxation is None else (1 - relaxation.to(ratio)) * ratio + relaxation.to(ratio)


def rest(target_C: Tensor, draft_C: Tensor) -> Tensor:
    """What a rejected draw leaves of the target: norm(max(0, p − q)); p where rounding leaves nothing."""
    rest_C = (target_C - draft_C).clamp(min=0)
    return rest_C / rest_C.sum() if rest_C.any() else target_C


def accept(token_M: Tensor, parent_M: Tensor, choice_R: Tensor) -> tuple[tuple[int, ...], int]:
    """The path of nodes that the target would have said itself, and the token it says next.

    Args:
        token_M: drafted tokens; children of one node differ.
        parent_M: parent of each; −1 is the root.
        choice_R: (1 + M,) the target's greedy token after the root and after each node.
    """
    child = {edge: node for node, edge in enumerate(zip(parent_M.tolist(), token_M.tolist(), strict=True))}
    choice, path = choice_R.tolist(), [-1]
    while (path[-1], choice[path[-1] + 1]) in child:
        path.append(child[path[-1], choice[path[-1] + 1]])
    return tuple(path[1:]), choice[path[-1] + 1]
