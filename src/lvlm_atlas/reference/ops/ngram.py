"""Copying what followed the same words before.

Source: saxena2023prompt; which match is taken as in transformers2026, `PromptLookupCandidateGenerator`, and vllm2026,
`NgramProposer`: the longest n-gram, of equally long ones the earliest.

N tokens of the text, K copied.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def look_up(token_N: Tensor, longest: int, shortest: int, count: int, ends: Collection[int] = ()) -> Tensor:
    """The tokens (K,) that followed the last n tokens of the text where these stood before; none without a match.

    Args:
        token_N: the text so far.
        longest: the largest n that is tried, first.
        shortest: the smallest n that is tried, last.
        count: the most tokens to copy; fewer where the text ends before. A copy may run into the n-gram itself.
        ends: tokens before which a copy ends. A match that such a token follows at once is no match.
    """
    stop_N = torch.isin(token_N, torch.tensor([*ends], dtype=token_N.dtype, device=token_N.device))
    for n in range(min(longest, len(token_N) - 1), shortest - 1, -1):
        window_Wn = token_N[:-1].unfold(0, n, 1)
        for start in ((window_Wn == token_N[-n:]).all(1).nonzero()[:, 0] + n).tolist():
            stops = stop_N[start : start + count].nonzero()[:, 0].tolist()
            copied_K = token_N[start : start + min([count, *stops[:1]])]
            if len(copied_K):
                return copied_K
    return token_N[:0]
