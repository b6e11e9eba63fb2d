"""LongVA (UniRes): tiles of an image and frames of a video stand in a row alike, each projected, then pooled.

Paper: zhang2024longva; code: EvolvingLMMs-Lab/LongVA, longva/longva/model/llava_arch.py (`get_2dPool`,
`encode_multimodals`, the branch `unires`).

Symbols: mm_spatial_pool_stride → stride, mm_spatial_pool_mode → mode.

Departs:
1. `stride` and `mode` hold for tiles as for frames; the code's hold for videos, and tiles are always averaged 2 × 2.
2. The canvases that an image may be cut for are those of the model; the code allows up to 49 tiles.
3. Projector and LLM are the model's own. LongVA's are trained for it: the LLM reads 224K tokens of text first, with a
   rotary base of 10⁹, then images laid out like this and no video.
4. An image that is not cut is pooled like a frame; the code keeps the view of the whole as it is where that is all.

F frames, views or tiles, N patches of one, K tokens of one, V views of an image, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm.contexts import Adapter
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.refusal import Refusal

Mode = Literal["average", "max"]
"""What of a square is kept, channel by channel."""


def pool_square(token_FND: Tensor, stride: int, mode: Mode = "average") -> Tensor:
    """Vision tokens (F, K, D) of the squares of `stride`² neighbours, K = ⌊√N / stride⌋², row after row.

    Rows and columns that fill no square are lost.

    Args:
        token_FND: tokens of a whole square grid, row after row.
        stride: side of a square.
        mode: the mean of a square, or the largest of each channel.
    """
    side = math.isqrt(token_FND.shape[1])
    grid_FDRC = token_FND.mT.unflatten(2, (side, side))
    pool = functional.avg_pool2d if mode == "average" else functional.max_pool2d
    return pool(grid_FDRC, stride).flatten(2).mT


def tiles_alone(token_FKD: Tensor, views: Seq[int]) -> Tensor:
    """The tokens without the view of the whole, which comes first among the V views of each image."""
    return torch.cat([view_VKD[1:] for view_VKD in token_FKD.split([*views])])


@dataclass(frozen=True)
class LongVA(Technique):
    """At `adapter`: projects all patches, then pools each frame or tile.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    stride: int = 2
    mode: Mode = "average"

    acts_at: ClassVar = ("adapter",)
    needs: ClassVar = ("free-patches", "visual-features", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(2, "stride")
        if self.mode not in ("average", "max"):
            raise ValueError(f"mode must be average or max, got {self.mode!r}")

    def begin(self, run: Run) -> Any:
        """What acts in the run."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: LongVA
    run: Run

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F', K, D): of each frame, or of each tile of the images.

        Raises:
            Refusal: the patches form no whole square, or a smaller one than is pooled.
        """
        side = square_side(at, self.run)
        if self.setting.stride > side:
            raise Refusal(f"stride must be at most {side}, the patches along a side, got {self.setting.stride}")
        token_FKD = pool_square(at.adapter(at.hidden_FND), self.setting.stride, self.setting.mode)
        return tiles_alone(token_FKD, at.views) if at.views else token_FKD
