"""Pooling: the vision tokens of each frame are averaged, maximised or interpolated over squares of their grid.

Paper: li2024llavaonevision, whose video frames are pooled so; code: LLaVA-VL/LLaVA-NeXT, llava/model/llava_arch.py
(`get_2dPool`).

Symbols: mm_spatial_pool_stride → stride (s), mm_spatial_pool_mode → mode.

Departs:
1. Whether sides are rounded up or down is a parameter of its own; in the code bilinear rounds up, the others down.
2. Frames are pooled unless the model tiles images, which are left alone; the code pools the frames of videos and no
   image.
3. The grid is the square root of the number of tokens, also behind an adapter that leaves a square of other size.

T frames, N tokens of a frame, R rows and C columns of its grid, K pooled tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of, grid_places
from lvlm_atlas.reference.lvlm.contexts import AdapterOutput
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.refusal import Refusal

Mode = Literal["average", "max", "bilinear"]
"""What becomes of a square: its mean, its maximum in each channel, or a point between the four tokens at its middle."""


def pooled_side(side: int, stride: int, ceil_mode: bool) -> int:
    """Tokens along a side after pooling: side / stride, rounded up or down."""
    return -(-side // stride) if ceil_mode else side // stride


def pool(grid_TDRC: Tensor, stride: int, mode: Mode = "bilinear", *, ceil_mode: bool = True) -> Tensor:
    """Pool the rows and columns of a grid: (T, D, R, C) → (T, D, R', C').

    Average and maximum take squares from the upper left corner on; rounded up, the last ones are cut off by the edge,
    and what is there counts. Bilinear interpolation spreads the new tokens evenly over the whole grid.

    Args:
        grid_TDRC: tokens.
        stride: side s of a square.
        mode: see `Mode`.
        ceil_mode: whether sides are rounded up.
    """
    if mode == "bilinear":
        size = [pooled_side(side, stride, ceil_mode) for side in grid_TDRC.shape[2:]]
        return functional.interpolate(grid_TDRC, size, mode="bilinear")
    pool2d = functional.avg_pool2d if mode == "average" else functional.max_pool2d
    out: Tensor = pool2d(grid_TDRC, stride, ceil_mode=ceil_mode)
    return out


@dataclass(frozen=True)
class Pooling(Technique):
    """At `adapter-output`: a token for each square of `stride`² tokens of a frame.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    stride: int = 2
    mode: Mode = "bilinear"
    ceil_mode: bool = True

    acts_at: ClassVar = ("adapter-output",)
    needs: ClassVar = ("visual-features", "whole-grid", "equal-frames", "frames-apart", "one-position-axis")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "stride")
        if self.mode not in ("average", "max", "bilinear"):
            raise ValueError(f"mode must be average, max or bilinear, got {self.mode!r}")

    def begin(self, run: Run) -> Pooler:
        """What acts in a run; images of a model that tiles them stay as they are."""
        return Pooler(self, active=self.stride > 1 and not getattr(run.config, "image_grid_pinpoints", None))


@dataclass(frozen=True)
class Pooler:
    """The technique in a run."""

    setting: Pooling
    active: bool

    def adapter_output(self, at: AdapterOutput) -> VisionTokens:
        """The pooled tokens of each frame, on a smaller grid.

        Raises:
            Refusal: a frame's tokens form no square, or are fewer along a side than `stride`.
        """
        tokens, setting = at.tokens, self.setting
        if not self.active or not tokens.blocks:
            return tokens
        token_TND = torch.stack([block.token_ND for block in tokens.blocks])
        side = math.isqrt(token_TND.shape[1])
        if side**2 != token_TND.shape[1]:
            raise Refusal(f"pooling reads a square of tokens, but a frame has {token_TND.shape[1]}")
        small = pooled_side(side, setting.stride, setting.ceil_mode)
        if not small:
            raise Refusal(
                f"stride must be at most {side}, the tokens along a side, or ceil_mode on; got {setting.stride}"
            )
        grid_TDRC = token_TND.mT.unflatten(2, (side, side))
        pooled_TKD = pool(grid_TDRC, setting.stride, setting.mode, ceil_mode=setting.ceil_mode).flatten(2).mT
        place_TK2 = grid_places(small, small, pooled_TKD.device).expand(len(pooled_TKD), -1, -1)
        return replace(tokens, blocks=blocks_of(pooled_TKD, place_TK2), grid=(small, small))
