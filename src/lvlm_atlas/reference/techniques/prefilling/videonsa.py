"""VideoNSA: vision tokens attend by three gated branches, to means of blocks, to the best blocks and to a window.

Paper: song2025videonsa, which applies native sparse attention to a video LVLM. Code: Espere-1119-Song/VideoNSA,
lmms-eval/lmms_eval/models/qwen25_vl/modeling_qwen2_5_vl.py (`_mixed_attention`), ms-swift/nsa/nsa.py; selection as in
ms-swift/fla/ops/nsa/parallel.py. Gates have random weights, the model those that it came with.

Symbols: b → `block_size`, S → `block_count`, w → `window_size`.

Departs:
1. A query sees the means of blocks that end at or before it, as the kernel of the selection has it; the mask of the
   code's compressed branch lets it see those from its own on instead, and none of the past.
2. Blocks, means and windows are those of the vision tokens alone. The code leaves text in place with keys and values of
   zero, which take a part of each softmax.
3. The rows of the two kinds of tokens are kept apart. In the code a query of zero gives the mean of the values that it
   sees, and that is added to the other kind's rows.
4. Heads read the keys of their own group. The code lays 28 heads twice into 64 slots for its kernel and averages the
   two, of which each reads the keys that its slot falls to.
5. Gates read the input of the layer divided by its root mean square; in the code they read the layer's own norm of it.
6. A token's own block goes first; in the code a block before it that has all the weight of every head ties with it.
7. Prefill alone, and of one round: decoded tokens are text, and attend densely in the code, too.

B batch, H query heads, G key-value heads, N tokens, V vision tokens, T text tokens, J blocks, D width, d head
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.attention import attend, causal_mask, share_heads
from lvlm_atlas.reference.ops.blocks import Replacement
from lvlm_atlas.reference.ops.selection import ranking
from lvlm_atlas.reference.refusal import Refusal

TEMPERATURE = 0.3
"""Divides the logits of the gates."""


def means(x_BGVd: Tensor, size: int) -> Tensor:
    """The mean of each block (B, G, J, d), of the tokens that it has."""
    return torch.stack([block.mean(2) for block in x_BGVd.split(size, dim=2)], dim=2)


def compressed(query_BHVd: Tensor, key_BGVd: Tensor, value_BGVd: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Attention to the means of whole past blocks: output (B, H, V, d), and its weights (B, H, V, J).

    A query with no such block gets zeros.
    """
    heads, length = query_BHVd.shape[1:3]
    key_BHJd, value_BHJd = (share_heads(means(x, size), heads) for x in (key_BGVd, value_BGVd))
    token_V = torch.arange(length, device=query_BHVd.device)
    end_J = (torch.arange(key_BHJd.shape[2], device=query_BHVd.device) + 1) * size
    logit_BHVJ = query_BHVd @ key_BHJd.mT * query_BHVd.shape[-1] ** -0.5
    logit_BHVJ = logit_BHVJ.float().masked_fill(end_J > token_V[:, None] + 1, float("-inf"))
    weight_BHVJ = logit_BHVJ.softmax(-1).nan_to_num(0.0)
    return weight_BHVJ.to(value_BHJd.dtype) @ value_BHJd, weight_BHVJ


def selected(weight_BHVJ: Tensor, groups: int, count: int, size: int) -> Tensor:
    """True (B, G, V, J) at the blocks that each token of a key-value head looks into: its own, and the best before it.

    Args:
        weight_BHVJ: from `compressed`; summed over the query heads of a group.
        groups: G.
        count: blocks, the token's own among them.
        size: tokens of a block.
    """
    importance_BGVJ = weight_BHVJ.unflatten(1, (groups, -1)).sum(2)
    own_V1 = torch.arange(weight_BHVJ.shape[2], device=weight_BHVJ.device)[:, None] // size
    block_J = torch.arange(weight_BHVJ.shape[3], device=weight_BHVJ.device)
    order_BGVJ = ranking(
        importance_BGVJ.masked_fill(block_J == own_V1, float("inf")).masked_fill(block_J > own_V1, -1.0)
    )
    enters_BGVJ = (block_J < count).expand_as(order_BGVJ)
    return torch.zeros_like(enters_BGVJ).scatter(-1, order_BGVJ, enters_BGVJ) & (block_J <= own_V1)


class Gates(nn.Module):
    """How much of each branch a token takes, head by head: from 0 to 1 each, and they need not add up to 1."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.g_proj_1 = nn.Linear(width, width)
        self.g_proj_2 = nn.Linear(width, heads * 3)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(3, B, H, N): compressed, selected, window."""
        logit = self.g_proj_2(functional.gelu(self.g_proj_1(x_BND))).unflatten(-1, (-1, 3)) / TEMPERATURE
        gate: Tensor = logit.sigmoid().permute(3, 0, 2, 1)
        return gate


@dataclass(frozen=True)
class VideoNSA(Technique):
    """The attention of prefill in every layer; text is dense.

    Raises:
        ValueError: an argument lies outside its range.
    """

    block_size: int = 64
    """Tokens of a block."""
    block_count: int = 32
    """Blocks that a token looks into, its own among them."""
    window_size: int = 256
    """Vision tokens in the window, the token itself among them."""

    acts_at: ClassVar = ("attention",)
    needs: ClassVar = ("block-sparse-kernel", "modality-mask", "vision-in-sequence", "training-data", "own-projections")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "block_size", "block_count", "window_size")

    def begin(self, run: Run) -> Branches:
        """What attends in one run."""
        shape = run.config.text
        return Branches(self, run, (shape.hidden_size, shape.num_attention_heads))


@dataclass(frozen=True)
class Branches:
    """VideoNSA in one run."""

    setting: VideoNSA
    run: Run
    shape: tuple[int, int]
    """Width and query heads."""

    def choose_blocks(self, at: Attention) -> Replacement | None:
        """Text densely, vision by the branches; None where there is no vision token.

        Raises:
            Refusal: something is cached before these tokens.
        """
        vision_N = at.sequence.vision_BN[0]
        place_V, place_T = vision_N.nonzero()[:, 0], (~vision_N).nonzero()[:, 0]
        if at.cached:
            raise Refusal("VideoNSA reads a video and its question at once; ask in one round, or leave it out")
        if not len(place_V):
            return None
        gates = module_of(self.run, (Gates, at.layer), lambda: Gates(*self.shape))
        hidden_BVD = at.sequence.hidden_BND[:, place_V]
        hidden_BVD = hidden_BVD * hidden_BVD.float().square().mean(-1, keepdim=True).rsqrt().to(hidden_BVD.dtype)
        query_BHVd, key_BGVd, value_BGVd = (x[:, :, place_V] for x in (at.query_BHNd, at.key_BGNd, at.value_BGNd))
        mixed_BHVd, pairs = self.mixed(query_BHVd, key_BGVd, value_BGVd, gates(hidden_BVD))
        out_BHNd = torch.empty_like(at.query_BHNd)
        out_BHNd[:, :, place_V] = mixed_BHVd
        seen_TN = causal_mask(at.sequence.length, vision_N.device)[place_T]
        out_BHNd[:, :, place_T] = attend(at.query_BHNd[:, :, place_T], at.key_BGNd, at.value_BGNd, seen_TN)
        return Replacement(out_BHNd, pairs + int(seen_TN.sum()) * out_BHNd.shape[0] * out_BHNd.shape[1])

    def mixed(self, query_BHVd: Tensor, key_BGVd: Tensor, value_BGVd: Tensor, gate: Tensor) -> tuple[Tensor, int]:
        """The gated sum of the branches (B, H, V, d), and how many pairs of tokens the last two look at.

        Args:
            query_BHVd: queries of the vision tokens, rotated.
            key_BGVd: their keys.
            value_BGVd: their values.
            gate: of each branch (3, B, H, V).
        """
        setting, (heads, length) = self.setting, query_BHVd.shape[1:3]
        groups, token_V = key_BGVd.shape[1], torch.arange(length, device=query_BHVd.device)
        compressed_BHVd, weight_BHVJ = compressed(query_BHVd, key_BGVd, value_BGVd, setting.block_size)
        block_BGVJ = selected(weight_BHVJ, groups, setting.block_count, setting.block_size)
        pair_BGVV = block_BGVJ.repeat_interleave(setting.block_size, -1)[..., :length].tril()
        near_VV = causal_mask(length, token_V.device) & (token_V[:, None] - token_V < setting.window_size)
        tensors = (query_BHVd, key_BGVd, value_BGVd)
        branches = (
            compressed_BHVd,
            attend(*tensors, pair_BGVV.repeat_interleave(heads // groups, dim=1)),
            attend(*tensors, near_VV),
        )
        pairs = int((pair_BGVV | near_VV).sum()) * heads // groups
        return sum(
            (g[..., None] * out for g, out in zip(gate, branches, strict=True)), torch.zeros_like(query_BHVd)
        ), pairs
