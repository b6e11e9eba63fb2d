"""The Q-Former: learned queries that read features through the cross-attention of a small BERT.

Paper: li2023blip2; code: salesforce/LAVIS, lavis/models/blip2_models/Qformer.py (`BertModel` on `query_embeds` alone).
Text, which the first stage of its training puts beside the queries, is not here, nor are the layers it needs.

F frames, or other sets of features that are read apart, M queries, S features, C their width, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.ops.attention import attend

EPS = 1e-12
"""Of BERT's norms."""


class PostNormAttention(nn.Module):
    """BERT's attention: the norm is taken of the sum with what entered, and not before.

    Args:
        width: of what asks.
        heads: they share the width.
        source: width of what is asked.
    """

    def __init__(self, width: int, heads: int, source: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x_FMD: Tensor, source_FSC: Tensor) -> Tensor:
        """(F, M, D), what it reads (F, S, C) → (F, M, D)."""
        heads = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(x_FMD), self.key(source_FSC), self.value(source_FSC))
        )
        out_FMD: Tensor = self.norm(self.out(attend(*heads).transpose(1, 2).flatten(2)) + x_FMD)
        return out_FMD


class QFormerLayer(nn.Module):
    """Attention among the queries, in some layers attention to the features, then an MLP of four times the width."""

    def __init__(self, width: int, heads: int, source: int | None) -> None:
        super().__init__()
        self.self_attention = PostNormAttention(width, heads, width)
        self.cross_attention = None if source is None else PostNormAttention(width, heads, source)
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, x_FMD: Tensor, source_FSC: Tensor) -> Tensor:
        """(F, M, D), the features (F, S, C) → (F, M, D)."""
        x_FMD = self.self_attention(x_FMD, x_FMD)
        if self.cross_attention is not None:
            x_FMD = self.cross_attention(x_FMD, source_FSC)
        out_FMD: Tensor = self.norm(self.linear_2(functional.gelu(self.linear_1(x_FMD))) + x_FMD)
        return out_FMD


class QFormer(nn.Module):
    """M learned queries and the layers that fill them from features; features have no positions of their own.

    Args:
        queries: M.
        width: of the queries; a multiple of `heads`.
        heads: of every attention.
        layers: how many.
        source: width of the features.
        cross_every: every so many layers, the first among them, read the features.
    """

    def __init__(self, queries: int, width: int, heads: int, layers: int, source: int, *, cross_every: int = 2) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(queries, width))
        self.norm = nn.LayerNorm(width, EPS)
        self.layers = nn.ModuleList(
            QFormerLayer(width, heads, None if layer % cross_every else source) for layer in range(layers)
        )

    def forward(self, source_FSC: Tensor) -> Tensor:
        """(F, S, C) → (F, M, D), whatever S is."""
        x_FMD: Tensor = self.norm(self.query_tokens).expand(len(source_FSC), -1, -1)
        for layer in self.layers:
            x_FMD = layer(x_FMD, source_FSC)
        return x_FMD
