"""XAttention: block-sparse prefill attention; sums along strided antidiagonals tell which blocks matter.

Paper: xu2025xattention (antidiagonal scoring, threshold block selection).

Symbols: B → `block_size`, S → `stride`, τ → `threshold`; block scores → `mass_BHJJ` (query block, key block).

Kept from the released code, beyond the paper's smallest set of blocks that reaches τ:
1. Key block 0 and the diagonal block are always kept.
2. Query blocks go through the code in chunks, and in the first chunk (up to 16384 tokens: all of them) the index of
   the diagonal overwrites that of block 0. There the running sum lags one block behind, so that one block more than
   needed is kept, and block 0 comes on top, uncounted. `select_blocks` does the same.

Departs:
1. A sequence is padded to whole blocks, the code pads to whole chunks; padding carries no mass in either.
2. For a length that needs less than `stride` tokens of padding and spans several chunks, the code's plain-torch path
   masks all earlier chunks (a slice `-0:`). This follows its Triton path, which does not.
3. No options `keep_sink`, `keep_recent`, which the code leaves off for LVLMs: the first sets the first query row, not
   the first key column, and what both are named for holds anyway.
4. `block_size` is free, the code's kernel takes 128 alone; one threshold for all heads, the code also takes one each
   (fitted for one Llama model). Sequences of a batch select each for itself; the code, made for a batch of one, would
   join their selections.

B batch, H query heads, G key-value heads, N tokens, J blocks, U strided tokens, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.attention import causal_mask, share_heads
from lvlm_atlas.reference.ops.blocks import Blocks, block_sparse_attention  # noqa: F401 - steps of the entry
from lvlm_atlas.reference.refusal import Refusal


def antidiagonal_mass(query_BHNd: Tensor, key_BHNd: Tensor, block_size: int, stride: int, norm: float = 1.0) -> Tensor:
    """Estimated attention of each pair of blocks (B, H, J, J), in the type of the queries.

    Folding `stride` neighbours into one long vector, queries in reverse, makes one product sum an antidiagonal:
    logit[u, v] = Σ_r q[uS + S−1−r] · k[vS + r] / (√d · S · norm). Its causal softmax is summed over each block.

    Args:
        query_BHNd: queries after position encoding.
        key_BHNd: keys after position encoding, one head a query head.
        block_size: tokens of a block, a multiple of `stride`.
        stride: distance of the antidiagonals.
        norm: further temperature; 1 in all of the paper's runs.
    """
    length, d = query_BHNd.shape[-2:]
    padding = (0, 0, 0, -length % block_size)
    query_BHNd, key_BHNd = functional.pad(query_BHNd, padding), functional.pad(key_BHNd, padding)
    query_BHUe = torch.cat([query_BHNd[:, :, stride - 1 - r :: stride] for r in range(stride)], dim=-1)
    key_BHUe = torch.cat([key_BHNd[:, :, r::stride] for r in range(stride)], dim=-1)
    logit_BHUU = query_BHUe @ key_BHUe.mT / d**0.5 / stride / norm
    later_UU = ~causal_mask(logit_BHUU.shape[-1], logit_BHUU.device)
    weight_BHUU = logit_BHUU.masked_fill(later_UU, float("-inf")).softmax(-1, dtype=torch.float32)
    weight_BHUU = weight_BHUU.to(query_BHNd.dtype)
    weight_BHUU[:, :, -(-length // stride) :] = 0  # rows of nothing but padding
    rows = block_size // stride  # of a block
    blocks = weight_BHUU.shape[-1] // rows
    tile_BHJrJr: Tensor = weight_BHUU.reshape(*weight_BHUU.shape[:2], blocks, rows, blocks, rows)
    return tile_BHJrJr.sum(-1).sum(-2)


def chunk_tokens(length: int) -> int:
    """Tokens that the released code estimates at a time: all up to 16384, then fewer the longer the sequence."""
    power = 1 << (length - 1).bit_length()
    return max(min(max(2048, power), 2**28 // power), 2048)


def select_blocks(mass_BHJJ: Tensor, threshold: float, first_chunk: int) -> Tensor:
    """True (B, H, J, J) where a query block attends to a key block; never above the diagonal.

    Blocks enter in the order of their mass while the sum before them is below threshold · total. The sum starts
    with the always-kept blocks: block 0 and the diagonal, save in the first chunk, where it is the diagonal's and
    lags one block behind.

    Args:
        mass_BHJJ: from `antidiagonal_mass`.
        threshold: share of a row's mass to reach.
        first_chunk: query blocks of the first chunk; 0 gives the rule without the lag.
    """
    mass_BHJJ = mass_BHJJ.double()
    blocks = mass_BHJJ.shape[-1]
    counted_JJ = torch.eye(blocks, dtype=torch.bool, device=mass_BHJJ.device)
    counted_JJ[first_chunk:, 0] = True
    required_BHJ1 = mass_BHJJ.sum(-1, keepdim=True) * threshold
    start_BHJ1 = mass_BHJJ.masked_fill(~counted_JJ, 0).sum(-1, keepdim=True)
    other_BHJJ = mass_BHJJ.masked_fill(counted_JJ, 0).sort(dim=-1, descending=True).values
    nothing = torch.zeros_like(start_BHJ1)
    # Two zeros stand for two counted blocks; the first chunk counts one, hence the lag.
    before_BHJJ = torch.cat([nothing, nothing, start_BHJ1, other_BHJJ], dim=-1)[..., :blocks].cumsum(-1)
    order_BHJJ = mass_BHJJ.masked_fill(counted_JJ, float("inf")).argsort(dim=-1, descending=True, stable=True)
    keep_BHJJ = counted_JJ | torch.zeros_like(mass_BHJJ, dtype=torch.bool).scatter(
        -1, order_BHJJ, before_BHJJ < required_BHJ1
    )
    keep_BHJJ[..., 0] = True
    return keep_BHJJ.tril()


@dataclass(frozen=True)
class XAttention(Technique):
    """The attention of prefill; decoding stays dense.

    Raises:
        ValueError: an argument lies outside its range.
        Refusal: the stride does not divide the block size.
    """

    stride: int = 16
    """Distance of the antidiagonals, in tokens."""
    threshold: float = 0.9
    """Share of each query block's estimated attention that the kept blocks reach."""
    block_size: int = 128
    """Tokens of a block."""
    dense_layers: int = 3
    """Leading layers that stay dense."""

    acts_at: ClassVar = ("attention",)
    needs: ClassVar = ("block-sparse-kernel",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "stride", "block_size")
        if self.block_size % self.stride:
            raise Refusal(f"block_size must be a multiple of stride {self.stride}, got {self.block_size}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {self.threshold}")
        self.expect_at_least(0, "dense_layers")

    def choose_blocks(self, at: Attention) -> Blocks | None:
        """The blocks to attend to; None in the leading layers."""
        if at.layer < self.dense_layers:
            return None
        heads, length = at.query_BHNd.shape[1:3]
        key_BHNd = share_heads(at.key_BGNd, heads)
        mass_BHJJ = antidiagonal_mass(at.query_BHNd, key_BHNd, self.block_size, self.stride)
        first_chunk = -(-chunk_tokens(length) // self.block_size)
        return Blocks(select_blocks(mass_BHJJ, self.threshold, first_chunk), self.block_size)
