"""Qwen2.5-VL's window attention: most encoder layers attend inside square windows, a few to the whole picture.

Paper: bai2025qwen25vl; code: transformers, models/qwen2_5_vl/modeling_qwen2_5_vl.py (`get_window_index`,
`Qwen2_5_VisionTransformerPretrainedModel.forward`).

Symbols: window_size / patch_size → window (112 pixels are 8 patches), fullatt_block_indexes → full_layers.

Departs:
1. It takes the place of full attention in the encoder of another model; Qwen2.5-VL's own does this already, and so
   lacks what is needed. Norms, MLPs and weights stay the model's; trained for full attention, they are stand-ins.
2. Windows of one size are cut from the grid as they stand and run as one batch. The code sorts the patches by window
   once, before the first layer, and sorts them back behind the merger; each patch attends to the same ones.
3. A class token, which Qwen2.5-VL has not, attends to all patches, and each window sees it.
4. A window is any number of patches; the code's is a whole number of merged squares of 2 × 2.

F frames (the encoder's batch), H heads, N tokens, P tokens in front of the patches, R rows and C columns of patches,
d head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.contexts import EncoderAttention
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.refusal import Refusal

Band = tuple[slice, int]
"""A run of rows, or columns, and how many of them make a window."""


def bands(length: int, window: int) -> Iterator[Band]:
    """The rows that fill whole windows, then the rest, which is a smaller one; neither is ever empty."""
    whole = length // window * window
    if whole:
        yield slice(0, whole), window
    if whole < length:
        yield slice(whole, length), length - whole


def on_grid(x_FHNd: Tensor, rows: int, columns: int, merge: int) -> Tensor:
    """Patches (F, H, R, C, d), row by row, of those that stand square after square of `merge`² neighbours."""
    squares = x_FHNd.unflatten(2, (rows // merge, columns // merge, merge, merge)).transpose(3, 4)
    out: Tensor = squares.flatten(4, 5).flatten(2, 3)
    return out


def off_grid(x_FHRCd: Tensor, merge: int) -> Tensor:
    """The inverse: (F, H, N, d), square after square."""
    squares = x_FHRCd.unflatten(3, (-1, merge)).unflatten(2, (-1, merge)).transpose(3, 4)
    out: Tensor = squares.flatten(2, 5)
    return out


def attend_in_windows(
    query_FHNd: Tensor, key_FHNd: Tensor, value_FHNd: Tensor, grid: tuple[int, int], window: int, *,
    prefix: int = 0, merge: int = 1,
) -> Tensor:  # fmt: skip
    """Softmax attention (F, H, N, d) of each patch to those of its window, which is cut from the top left.

    Args:
        query_FHNd: queries.
        key_FHNd: keys, as many heads.
        value_FHNd: values.
        grid: rows R and columns C of the patches.
        window: side of a window, patches.
        prefix: tokens in front that are no patches; they attend to all, and all to them.
        merge: side of the squares of neighbours in whose order the patches stand; 1: row by row.
    """
    three = (query_FHNd, key_FHNd, value_FHNd)
    front = [x[:, :, :prefix] for x in three]
    query, key, value = (on_grid(x[:, :, prefix:], *grid, merge) for x in three)
    out_FHRCd = torch.empty_like(query)
    for rows, high in bands(grid[0], window):
        for columns, wide in bands(grid[1], window):
            inside = [_windows(x[:, :, rows, columns], high, wide) for x in (query, key, value)]
            shape = inside[0].shape[:3]  # frames, rows and columns of windows
            seen = [
                torch.cat([at_front[:, None, None].expand(*shape, -1, -1, -1), x], dim=4) if prefix else x
                for at_front, x in zip(front[1:], inside[1:], strict=True)
            ]
            part = attend(inside[0].flatten(0, 2), *(x.flatten(0, 2) for x in seen)).unflatten(0, shape)
            part = part.unflatten(4, (high, wide)).permute(0, 3, 1, 4, 2, 5, 6)
            out_FHRCd[:, :, rows, columns] = part.flatten(4, 5).flatten(2, 3)
    patches = off_grid(out_FHRCd, merge)
    return torch.cat([attend(front[0], key_FHNd, value_FHNd), patches], dim=2) if prefix else patches


def _windows(x_FHRCd: Tensor, high: int, wide: int) -> Tensor:
    """The windows (F, R / h, C / w, H, h · w, d) of a part of the grid that they fill."""
    cut = x_FHRCd.unflatten(3, (-1, wide)).unflatten(2, (-1, high))
    out: Tensor = cut.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5)
    return out


@dataclass(frozen=True)
class Qwen25VLWindowAttention(Technique):
    """At `encoder-attention`: windows in each layer but the full ones.

    Raises:
        ValueError: a parameter lies outside its range.
    """

    window: int = 8
    full_layers: tuple[int, ...] = (7, 15, 23, 31)

    acts_at: ClassVar = ("encoder-attention",)
    needs: ClassVar = ("full-encoder-attention", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(2, "window")
        if any(layer < 0 for layer in self.full_layers):
            raise ValueError(f"full_layers are at least 0, got {self.full_layers}")

    def begin(self, run: Run) -> Any:
        """What acts in the run."""
        return _Acting(self, getattr(run.config.vision, "spatial_merge_size", 1))


@dataclass(frozen=True)
class _Acting:
    """The technique in a run: its setting, and the side of the squares in whose order the patches stand."""

    setting: Qwen25VLWindowAttention
    merge: int

    def attend_patches(self, at: EncoderAttention) -> Tensor:
        """The layer's attention (F, H, N, d), inside windows unless it is a full one or one window holds the grid.

        Raises:
            Refusal: the patches fill no grid.
        """
        window, prefix = self.setting.window, at.patches.prefix
        patches = at.query_FHNd.shape[2] - prefix
        grid = at.patches.grid or (math.isqrt(patches), math.isqrt(patches))
        if math.prod(grid) != patches or at.patches.size_FN is not None:
            raise Refusal(f"windows are cut from a whole grid, but {patches} patches of it are left; leave one out")
        if at.layer in self.setting.full_layers or window >= max(grid):
            return at.attend()
        return attend_in_windows(
            at.query_FHNd, at.key_FHNd, at.value_FHNd, grid, window, prefix=prefix, merge=self.merge
        )
