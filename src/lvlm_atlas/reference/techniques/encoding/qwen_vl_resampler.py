"""Qwen-VL's resampler: learned queries on a grid of their own read the patches in one layer of cross-attention.

Paper: bai2023qwenvl. The authors' module comes with the weights, not with QwenLM/Qwen-VL; read in a copy,
Yuliang-Liu/Monkey, monkey_model/visual.py (`Resampler`, `get_abs_pos`, `VisionTransformer.attn_pool`, `ln_post`,
`proj`).

Symbols: n_queries → queries, output_dim // 128 → heads.

Departs:
1. The features are those of the model's encoder; the authors' encoder has 1,664 channels on 32 × 32 patches.
2. The tokens stand where the placeholder of the image stands, without marks around them.
3. The weights are random unless trained ones are given.

F frames, S patches, C channels, M queries, D width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.refusal import Refusal

EPS = 1e-6
"""Of the norms."""


def sincos_grid(side: int, width: int) -> Tensor:
    """Positions (side², width) of a square, row by row: half of the numbers tell the column, the other half the row.

    Of a coordinate x they are sin(x · 10000^(−i/n)) for i = 0 … n − 1, then the cosines, n a quarter of the width.
    """
    frequency_n = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle_sn = torch.arange(side, dtype=torch.float64)[:, None] * frequency_n
    axis_sw = torch.cat([angle_sn.sin(), angle_sn.cos()], dim=1)
    column_ssw, row_ssw = (axis_sw.expand(side, -1, -1), axis_sw[:, None].expand(-1, side, -1))
    return torch.cat([column_ssw, row_ssw], dim=2).flatten(0, 1).float()


def resized_grid(position_MD: Tensor, side: int) -> Tensor:
    """The positions of a square at another size (side², D): bicubic, corners not on corners; unchanged at their own."""
    own = math.isqrt(len(position_MD))
    if side == own:
        return position_MD
    square_1Dss = position_MD.float().mT.reshape(1, -1, own, own)
    resized_1Dtt = functional.interpolate(square_1Dss, (side, side), mode="bicubic", align_corners=False)
    return resized_1Dtt[0].flatten(1).mT.to(position_MD.dtype)


class Resampler(nn.Module):
    """From a whole square of S patches to M tokens of the LLM."""

    position_MD: Tensor

    def __init__(self, channels: int, out: int, *, queries: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_tokens = nn.Parameter(torch.zeros(queries, out))
        self.register_buffer("position_MD", sincos_grid(math.isqrt(queries), out), persistent=False)
        self.widen = nn.Identity() if channels == out else nn.Linear(channels, out, bias=False)
        self.query_norm, self.patch_norm, self.out_norm = (nn.LayerNorm(out, EPS) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(out, out) for _ in range(4))
        self.projection = nn.Parameter(torch.zeros(out, out))

    def forward(self, patch_FSC: Tensor) -> Tensor:
        """(F, S, C) → (F, M, D)."""
        position_SD = resized_grid(self.position_MD, math.isqrt(patch_FSC.shape[1]))
        patch_FSD = self.patch_norm(self.widen(patch_FSC))
        query_FMD = (self.query_norm(self.query_tokens) + self.position_MD).expand(len(patch_FSC), -1, -1)
        heads = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(query_FMD), self.key(patch_FSD + position_SD), self.value(patch_FSD))
        )
        read_FMD = self.out(attend(*heads).transpose(1, 2).flatten(2))
        out_FMD: Tensor = self.out_norm(read_FMD) @ self.projection
        return out_FMD


@dataclass(frozen=True)
class QwenVlResampler(Technique):
    """At `adapter`: `queries` vision tokens of each frame.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `queries` is no square number.
    """

    queries: int = 256
    heads: int = 32

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")
    withholds: ClassVar = ("whole-grid",)

    def __post_init__(self) -> None:
        self.expect_at_least(1, "queries", "heads")
        if math.isqrt(self.queries) ** 2 != self.queries:
            raise Refusal(f"queries must be a square number, got {self.queries}")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights.

        Raises:
            Refusal: `heads` do not divide the width of the LLM, or four numbers a position do not.
        """
        channels, out = run.config.vision.hidden_size, run.config.text.hidden_size
        if out % self.heads or out % 4:
            raise Refusal(f"heads must divide the width of the LLM, {out}, and so must 4, got {self.heads}")

        def build() -> Resampler:
            return Resampler(channels, out, queries=self.queries, heads=self.heads)

        return _Acting(run, module_of(run, self, build))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    run: Run
    resampler: Resampler

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, M, D).

        Raises:
            Refusal: the patches form no whole square.
        """
        square_side(at, self.run)
        out_FMD: Tensor = self.resampler(at.hidden_FND)
        return out_FMD
