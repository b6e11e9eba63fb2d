"""Learned queries that read an image by one cross-attention: no positions, no norm, no projection of the queries.

Paper: kang2025vispec; code: KangJialiang/ViSpec, vispec/model/cnets_ours.py (`ImgAdaptor`).

Q queries, N tokens, H heads, d head dimension, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.ops.attention import attend


class QueryAdaptor(nn.Module):
    """Q learned queries attend to tokens of the LLM's width.

    Args:
        width: D.
        heads: H; they share the width.
        queries: Q.
        bias: whether keys and values have one, as those of the target.
    """

    def __init__(self, width: int, heads: int, queries: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Parameter(torch.zeros(queries, heads, width // heads))
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) → (Q, D)."""
        key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(0, 1)[None]
            for each in (self.k_proj(x_ND), self.v_proj(x_ND))
        )
        out_QD: Tensor = self.o_proj(attend(self.q.transpose(0, 1)[None], key, value)[0].transpose(0, 1).flatten(1))
        return out_QD
