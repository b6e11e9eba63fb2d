"""Honeybee's C-Abstractor: convolutions, a pool to any square number of tokens, convolutions, then an MLP.

Paper: cha2024honeybee, sec. 4.2; code: kakaobrain/honeybee, honeybee/projectors/projectors.py (`CAbstractor`), on
timm's RegNet stage (`RegStage`, `Bottleneck`, `SEModule`).

Symbols: M → queries, L (blocks before and after the pool) → depth, hidden_size → width, mlp_depth → mlp_depth.

Departs:
1. Features come from the layer that the model uses, LLaVA's last but one; the authors take CLIP's last.
2. Options that the authors' configuration leaves off are not here: end tokens, a norm in front, a depth of 0.
3. The D-Abstractor, the paper's second projector, is `honeybee_d_abstractor`.
4. The weights are random unless trained ones are given.

F frames, H rows and W columns of patches, N patches, C channels, D width.
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
from lvlm_atlas.reference.modules.backbone import ChannelNorm
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.refusal import Refusal


class Bottleneck(nn.Module):
    """RegNet's block at a stride of 1: pointwise, 3 × 3 in each channel alone, squeeze and excite, pointwise."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        squeezed = round(channels / 4)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm1 = ChannelNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm2 = ChannelNorm(width)
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, width, 1)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.norm3 = ChannelNorm(width)
        same = channels == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, bias=False)
        self.shortcut_norm = nn.Identity() if same else ChannelNorm(width)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, channels, H, W) → (F, width, H, W)."""
        y = functional.silu(self.norm1(self.conv1(x_FCHW)))
        y = functional.silu(self.norm2(self.conv2(y)))
        mean = y.mean((2, 3), keepdim=True)
        y = y * self.excite(functional.silu(self.squeeze(mean))).sigmoid()
        return functional.silu(self.norm3(self.conv3(y)) + self.shortcut_norm(self.shortcut(x_FCHW)))


def stage(depth: int, channels: int, width: int) -> nn.Sequential:
    """`depth` blocks, the first from `channels` to `width`."""
    return nn.Sequential(*(Bottleneck(width if block else channels, width) for block in range(depth)))


class CAbstractor(nn.Module):
    """The projector, from a whole square of N patches to M tokens of the LLM."""

    def __init__(
        self, patches: int, channels: int, out: int, *, queries: int, depth: int, width: int, mlp_depth: int
    ) -> None:
        super().__init__()
        self.position_embed = nn.Parameter(torch.zeros(1, patches, channels))
        self.before = stage(depth, channels, width)
        self.after = stage(depth, width, width)
        self.readout = nn.ModuleList(nn.Linear(out if layer else width, out) for layer in range(mlp_depth))
        self.side = math.isqrt(queries)

    def forward(self, patch_FNC: Tensor) -> Tensor:
        """(F, N, C) → (F, M, D)."""
        side = math.isqrt(patch_FNC.shape[1])
        square = (patch_FNC + self.position_embed).mT.reshape(len(patch_FNC), -1, side, side)
        square = self.after(functional.adaptive_avg_pool2d(self.before(square), self.side))
        x_FMD: Tensor = square.flatten(2).mT
        for layer, linear in enumerate(self.readout):
            x_FMD = linear(functional.silu(x_FMD) if layer else x_FMD)
        return x_FMD


@dataclass(frozen=True)
class Honeybee(Technique):
    """At `adapter`: `queries` vision tokens of each frame.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `queries` is no square number, or `width` no multiple of 4.
    """

    queries: int = 144
    depth: int = 3
    width: int = 1024
    mlp_depth: int = 2

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "queries", "depth", "width", "mlp_depth")
        if math.isqrt(self.queries) ** 2 != self.queries:
            raise Refusal(f"queries must be a square number, got {self.queries}")
        if self.width % 4:
            raise Refusal(f"width must be a multiple of 4, got {self.width}")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: Honeybee
    run: Run

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, M, D).

        Raises:
            Refusal: the patches form no whole square.
        """
        patches, setting = square_side(at, self.run) ** 2, self.setting
        channels, out = at.hidden_FND.shape[2], self.run.config.text.hidden_size

        def build() -> CAbstractor:
            return CAbstractor(
                patches, channels, out, queries=setting.queries, depth=setting.depth, width=setting.width,
                mlp_depth=setting.mlp_depth,
            )  # fmt: skip

        out_FMD: Tensor = module_of(self.run, (setting, patches), build)(at.hidden_FND)
        return out_FMD
