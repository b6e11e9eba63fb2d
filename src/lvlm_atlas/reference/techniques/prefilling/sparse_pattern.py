"""Vertical-slash attention, the pattern of MInference: a few key columns and diagonals, chosen by the last queries.

Paper: jiang2024minference. Code: microsoft/MInference, minference/modules/minference_forward.py
(`vertical_and_slash_kernel`, `tri_shape_kernel`, `sum_all_diagonal_matrix`).

Symbols: `last_q` → `probe_queries`; a column (vertical) is that of a key, a diagonal (slash) that of a distance i − j.
With no probe the columns are the first and the diagonals the nearest ones, which is the A-shape; where the last queries
are dense besides, the tri-shape.

Departs:
1. All heads have the same sizes, as in the code where nobody has searched a model; its shipped tables give each head
   one of five pairs of sizes, found beforehand by the mass that they recall. Heads still choose for themselves.
2. A diagonal is one token wide. The kernel computes the blocks of 64 that it runs through, and so what lies beside it.
3. The first columns and the nearest diagonals that are always taken are parameters, 30 and 100 in the code, which takes
   no fewer than 30 columns and 50 diagonals whatever their sizes.
4. Of equal sums the earlier column and the nearer diagonal go first; the code leaves that open, also among those that
   are always taken, of which it may then drop near ones if `slash_size` is below 100.
5. Tokens behind a cache attend to all of it, and the pattern is that of the new tokens among each other.

B batch, H query heads, N tokens, R probe rows, d head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import Attention
from lvlm_atlas.reference.lvlm.technique import Technique
from lvlm_atlas.reference.ops.blocks import Pairs, pair_attention  # noqa: F401 - a step of the entry
from lvlm_atlas.reference.ops.selection import top_mask


def column_and_diagonal_sums(weight_BHRN: Tensor, place_R: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of a probe summed by key, and by distance i − j of query and key: (B, H, N) each.

    Args:
        weight_BHRN: its softmax rows, zero where a key is later.
        place_R: places of its tokens.
    """
    token_N = torch.arange(weight_BHRN.shape[-1], device=weight_BHRN.device)
    distance_RN = (place_R[:, None] - token_N).clamp(min=0)
    sum_BHN = torch.zeros_like(weight_BHRN.sum(2))
    weight_BHP = weight_BHRN.flatten(2)
    return weight_BHRN.sum(2), sum_BHN.scatter_add(-1, distance_RN.flatten().expand(weight_BHP.shape), weight_BHP)


def vertical_slash(column_BHN: Tensor, diagonal_BHN: Tensor, columns: int, diagonals: int) -> Tensor:
    """True (B, H, N, N) in the best columns and the best diagonals; all of a kind where their number exceeds N.

    Args:
        column_BHN: score of each key.
        diagonal_BHN: score of each distance.
        columns: how many of them.
        diagonals: how many.
    """
    length = column_BHN.shape[-1]
    place_N = torch.arange(length, device=column_BHN.device)
    column_BHN = top_mask(column_BHN, min(columns, length))
    diagonal_BHN = top_mask(diagonal_BHN, min(diagonals, length))
    distance_NN = (place_N[:, None] - place_N).clamp(min=0)
    return (column_BHN[:, :, None] | diagonal_BHN[..., distance_NN]).tril()


def ahead_of_all(score_BHN: Tensor, first: int) -> Tensor:
    """The scores with the `first` ones above all others, and of these the earlier ones first where they are cut."""
    return score_BHN.masked_fill(torch.arange(score_BHN.shape[-1], device=score_BHN.device) < first, float("inf"))


@dataclass(frozen=True)
class SparsePattern(Technique):
    """The attention of prefill in every layer; decoding stays dense.

    Raises:
        ValueError: an argument lies outside its range.
    """

    vertical_size: int = 1000
    """Key columns of a head."""
    slash_size: int = 6096
    """Diagonals of a head."""
    probe_queries: int = 64
    """Last queries whose attention chooses; 0: nothing is looked at, and the pattern is fixed."""
    dense_queries: int = 0
    """Last queries that attend to everything."""
    first_columns: int = 30
    """First keys that are always among the columns."""
    nearest_diagonals: int = 100
    """Nearest distances that are always among the diagonals, the token's own first."""

    acts_at: ClassVar = ("attention",)
    needs: ClassVar = ("block-sparse-kernel",)

    def __post_init__(self) -> None:
        for name, least in {
            "vertical_size": 0, "slash_size": 1, "probe_queries": 0, "dense_queries": 0, "first_columns": 0,
            "nearest_diagonals": 1,
        }.items():  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def choose_blocks(self, at: Attention) -> Pairs:
        """The pairs of the pattern, of each head."""
        length, device = at.sequence.length, at.query_BHNd.device
        if self.probe_queries and at.probe is not None:
            place_R = torch.arange(max(0, length - self.probe_queries), length, device=device)
            column_BHN, diagonal_BHN = column_and_diagonal_sums(at.probe.rows(place_R), place_R)
            column_BHN = ahead_of_all(column_BHN, self.first_columns)
            diagonal_BHN = ahead_of_all(diagonal_BHN, self.nearest_diagonals)
        else:
            column_BHN = diagonal_BHN = at.query_BHNd.new_zeros(1, 1, length)
        keep_BHNN = vertical_slash(column_BHN, diagonal_BHN, self.vertical_size, self.slash_size)
        last_N1 = torch.arange(length, device=device)[:, None] >= length - self.dense_queries
        return Pairs(keep_BHNN | last_N1)
