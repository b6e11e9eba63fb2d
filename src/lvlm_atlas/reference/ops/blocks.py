"""Attention over chosen pairs of blocks of queries and keys.

B batch, H query heads, G key-value heads, N tokens, J blocks, M queries of a block, U keys that it sees, S keys in all,
I of them cached before, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from lvlm_atlas.reference.ops.attention import attend


@dataclass(frozen=True)
class Blocks:
    """Which blocks of keys each block of queries attends to."""

    keep_BHJJ: Tensor
    """True where query block (row) attends to key block (column), the diagonal among them."""
    size: int
    """Tokens of a block; the last one may be shorter."""


def block_sparse_attention(
    query_BHNd: Tensor, key_BGSd: Tensor, value_BGSd: Tensor, blocks: Blocks
) -> tuple[Tensor, int]:
    """Causal softmax attention over the kept blocks alone: (B, H, N, d), and how many scores were computed.

    Args:
        query_BHNd: queries.
        key_BGSd: keys of the same tokens; G divides H. Keys before those, of a cache, are seen by all.
        value_BGSd: values.
        blocks: kept pairs of blocks.
    """
    batch, heads, length = query_BHNd.shape[:3]
    cached = key_BGSd.shape[2] - length
    group_size, size = heads // key_BGSd.shape[1], blocks.size
    before_I = torch.arange(-cached, 0, device=query_BHNd.device)
    token_N = torch.arange(length, device=query_BHNd.device)
    out_BHNd, scores = torch.empty_like(query_BHNd), 0
    for b, h, block in product(range(batch), range(heads), range(blocks.keep_BHJJ.shape[2])):
        query_M = token_N[block * size : (block + 1) * size]
        key_U = torch.cat([before_I, token_N[blocks.keep_BHJJ[b, h, block].repeat_interleave(size)[:length]]])
        visible_MU = key_U <= query_M[:, None]
        query, key, value = query_BHNd[b, h, query_M], key_BGSd[b, h // group_size], value_BGSd[b, h // group_size]
        key_U = key_U + cached
        out = attend(query[None, None], key[None, None, key_U], value[None, None, key_U], visible_MU)
        out_BHNd[b, h, query_M] = out[0, 0]
        scores += int(visible_MU.sum())
    return out_BHNd, scores
