"""Attention over chosen pairs of queries and keys, one by one or in blocks.

B batch, H query heads, G key-value heads, N tokens, J blocks, M queries of a block, U keys that it sees, S keys in all,
I of them cached before, d head dimension, v that of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.ops.attention import attend, causal_mask, mask_of_heads


@dataclass(frozen=True)
class Blocks:
    """Which blocks of keys each block of queries attends to."""

    keep_BHJJ: Tensor
    """True where query block (row) attends to key block (column), the diagonal among them."""
    size: int
    """Tokens of a block; the last one may be shorter."""


@dataclass(frozen=True)
class Pairs:
    """Which tokens each token attends to, head by head."""

    keep_BHNN: Tensor
    """True where a query (row) attends to a key (column), of which nothing above the diagonal counts. A row of nothing
    but False has zeros for output. B and H may be 1, where sequences or heads are alike."""


@dataclass(frozen=True)
class Replacement:
    """What takes the place of a layer's softmax attention."""

    out_BHNd: Tensor
    """Its output."""
    scores: int
    """Products of a query and a key that were computed for it, all heads."""


def block_sparse_attention(
    query_BHNd: Tensor, key_BGSd: Tensor, value_BGSv: Tensor, blocks: Blocks
) -> tuple[Tensor, int]:
    """Causal softmax attention over the kept blocks alone: (B, H, N, v), and how many scores were computed.

    Args:
        query_BHNd: queries.
        key_BGSd: keys of the same tokens; G divides H. Keys before those, of a cache, are seen by all.
        value_BGSv: values.
        blocks: kept pairs of blocks.
    """
    batch, heads, length = query_BHNd.shape[:3]
    cached = key_BGSd.shape[2] - length
    group_size, size = heads // key_BGSd.shape[1], blocks.size
    before_I = torch.arange(-cached, 0, device=query_BHNd.device)
    token_N = torch.arange(length, device=query_BHNd.device)
    out_BHNv, scores = query_BHNd.new_empty(*query_BHNd.shape[:3], value_BGSv.shape[3]), 0
    for b, h, block in product(range(batch), range(heads), range(blocks.keep_BHJJ.shape[2])):
        query_M = token_N[block * size : (block + 1) * size]
        key_U = torch.cat([before_I, token_N[blocks.keep_BHJJ[b, h, block].repeat_interleave(size)[:length]]])
        visible_MU = key_U <= query_M[:, None]
        query, key, value = query_BHNd[b, h, query_M], key_BGSd[b, h // group_size], value_BGSv[b, h // group_size]
        key_U = key_U + cached
        out = attend(query[None, None], key[None, None, key_U], value[None, None, key_U], visible_MU)
        out_BHNv[b, h, query_M] = out[0, 0]
        scores += int(visible_MU.sum())
    return out_BHNv, scores


def pair_attention(
    query_BHNd: Tensor, key_BGSd: Tensor, value_BGSv: Tensor, pairs: Pairs, real: Tensor | None = None
) -> tuple[Tensor, int]:
    """Causal softmax attention over the kept pairs alone: (B, H, N, v), and how many scores that takes.

    A mask stands for what a kernel would leave out. Rows that see no key are zero.

    Args:
        query_BHNd: queries.
        key_BGSd: keys of the same tokens; G divides H. Keys before those, of a cache, are seen by all.
        value_BGSv: values.
        pairs: kept pairs.
        real: False (B, G, S) where a key is padding, which only the token itself sees, G one where heads are alike;
            None: nowhere.
    """
    batch, heads, length = query_BHNd.shape[:3]
    cached = key_BGSd.shape[2] - length
    own_BHNN = pairs.keep_BHNN.expand(batch, heads, length, length) & causal_mask(length, query_BHNd.device)
    keep_BHNS = functional.pad(own_BHNN, (cached, 0), value=True)
    if real is not None:
        itself_NS = torch.eye(length, dtype=torch.bool, device=query_BHNd.device)
        itself_NS = functional.pad(itself_NS, (cached, 0))
        keep_BHNS = keep_BHNS & (mask_of_heads(real, heads)[:, :, None, :] | itself_NS)
    # A row that sees nothing would be NaN: let it see everything, and take the result away again.
    blind_BHN1 = ~keep_BHNS.any(-1, keepdim=True)
    out_BHNv = attend(query_BHNd, key_BGSd, value_BGSv, keep_BHNS | blind_BHN1)
    return out_BHNv.masked_fill(blind_BHN1, 0), int(keep_BHNS.sum())
