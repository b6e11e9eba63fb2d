"""SpargeAttn: mean queries and keys of blocks attend to one another, and tell which pairs of blocks to compute.

Paper: zhang2025spargeattn. Code: thu-ml/SpargeAttn, spas_sage_attn/utils.py (`get_block_map_meansim_fuse_quant`) and
spas_sage_attn/core.py, whose recommended form keeps a share of the key blocks and whose other form keeps a share of the
estimated attention.

Symbols: τ (`cdfthreshd`) → `cdf_threshold`, θ (`simthreshd1`) → `similarity_threshold`, b_q, b_k → `query_block`,
`key_block`, `topk` → `top_k`.

Departs:
1. The second filter, inside the kernel, is left out: it skips the product with the values where all weights of a block
   are below e^−λ of the row's largest so far, λ being 50 by default. So is quantisation of queries, keys and values.
2. Products of `top_k` and cosines are those of float32 and float64; the code rounds to float16 and float32. Of equal
   scores the earlier block goes first, which the code leaves open.
3. A query whose blocks are all left out gets zeros; the kernel's output is undefined there.
4. Tokens behind a cache attend to all of it, and blocks are those of the new tokens. Prompts under 128 tokens run too.

B batch, H query heads, G key-value heads, N tokens, I query blocks, J key blocks, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.ops.blocks import Pairs, pair_attention  # noqa: F401 - a step of the entry


def pool(x_BHNd: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean token (B, H, J, d) and self-similarity (B, H, J) of each block, float32; the last one may be shorter.

    The similarity is the mean cosine of all pairs of tokens, those of a token with itself among them: the squared
    length of the mean of their unit vectors, and so from 0 to 1.
    """
    length = x_BHNd.shape[2]
    blocks = -(-length // size)
    padded = functional.pad(x_BHNd.float(), (0, 0, 0, blocks * size - length)).unflatten(2, (blocks, size))
    tokens_J1 = (length - torch.arange(0, length, size, device=x_BHNd.device)).clamp(max=size)[:, None]
    unit_mean = functional.normalize(padded, dim=-1).sum(3) / tokens_J1
    return padded.sum(3) / tokens_J1, unit_mean.square().sum(-1)


def estimate(query_BHId: Tensor, key_BHJd: Tensor, similar_BHJ: Tensor, visible_IJ: Tensor) -> Tensor:
    """Attention of mean queries to mean keys (B, H, I, J), zero at key blocks that are not similar or not visible."""
    logit_BHIJ = query_BHId @ key_BHJd.mT * query_BHId.shape[-1] ** -0.5
    seen_BHIJ = similar_BHJ[:, :, None] & visible_IJ
    weight_BHIJ: Tensor = logit_BHIJ.masked_fill(~seen_BHIJ, float("-inf")).softmax(-1)
    return weight_BHIJ.nan_to_num(0.0)  # a row of nothing is NaN


def chosen(weight_BHIJ: Tensor, top_k: float, cdf_threshold: float) -> Tensor:
    """True (B, H, I, J) at the key blocks that a query block keeps, best first, one at least.

    Args:
        weight_BHIJ: from `estimate`.
        top_k: share of all J key blocks, rounded down; some of them may be later ones, which a mask then takes away.
        cdf_threshold: where it is over 0, as many as together stay within this share of the attention instead.
    """
    order_BHIJ = weight_BHIJ.argsort(dim=-1, descending=True, stable=True)
    blocks = weight_BHIJ.shape[-1]
    if cdf_threshold > 0:
        reached_BHIJ = weight_BHIJ.gather(-1, order_BHIJ).cumsum(-1)
        number = (reached_BHIJ <= cdf_threshold).sum(-1, keepdim=True).clamp(min=1)
    else:
        number = torch.full((), max(1, int(top_k * blocks)), device=weight_BHIJ.device)
    enters_BHIJ = (torch.arange(blocks, device=weight_BHIJ.device) < number).expand_as(order_BHIJ)
    return torch.zeros_like(enters_BHIJ).scatter(-1, order_BHIJ, enters_BHIJ)


@dataclass(frozen=True)
class SpargeAttn(Technique):
    """The attention of prefill in every layer; decoding stays dense.

    Raises:
        ValueError: an argument lies outside its range.
    """

    top_k: float = 0.5
    """Share of all key blocks that a query block keeps."""
    cdf_threshold: float = 0.0
    """Share of the estimated attention that it keeps instead; 0: the number goes by `top_k`."""
    similarity_threshold: float = -0.1
    """Self-similarity that a block must exceed for its mean to be trusted; below 0 all are."""
    query_block: int = 128
    """Tokens of a query block."""
    key_block: int = 64
    """Tokens of a key block."""

    acts_at: ClassVar = ("attention",)
    needs: ClassVar = ("block-sparse-kernel",)

    def __post_init__(self) -> None:
        if not 0 < self.top_k <= 1:
            raise ValueError(f"top_k must lie in (0, 1], got {self.top_k}")
        self.expect_shares("cdf_threshold")
        if not -1 <= self.similarity_threshold <= 1:
            raise ValueError(f"similarity_threshold must lie in [-1, 1], got {self.similarity_threshold}")
        self.expect_at_least(1, "query_block", "key_block")

    def choose_blocks(self, at: Attention) -> Pairs:
        """The pairs of tokens whose blocks are kept."""
        length = at.sequence.length
        key_BHNd = share_heads(at.key_BGNd, at.query_BHNd.shape[1]).float()
        keep_BHIJ = self.keep(at.query_BHNd, key_BHNd - key_BHNd.mean(2, keepdim=True))
        pairs = keep_BHIJ.repeat_interleave(self.query_block, 2).repeat_interleave(self.key_block, 3)
        return Pairs(pairs[:, :, :length, :length])

    def keep(self, query_BHNd: Tensor, key_BHNd: Tensor) -> Tensor:
        """True (B, H, I, J) where a query block attends to a key block; to all where it, or they, are not similar."""
        query_BHId, query_similarity_BHI = pool(query_BHNd, self.query_block)
        key_BHJd, key_similarity_BHJ = pool(key_BHNd, self.key_block)
        end_I = (torch.arange(query_BHId.shape[2], device=query_BHNd.device) + 1) * self.query_block
        start_J = torch.arange(key_BHJd.shape[2], device=query_BHNd.device) * self.key_block
        visible_IJ = start_J < end_I[:, None]
        similar_BHJ = key_similarity_BHJ > self.similarity_threshold
        weight_BHIJ = estimate(query_BHId, key_BHJd, similar_BHJ, visible_IJ)
        forced = ~similar_BHJ[:, :, None] | ~(query_similarity_BHI > self.similarity_threshold)[..., None]
        return (chosen(weight_BHIJ, self.top_k, self.cdf_threshold) | forced) & visible_IJ
