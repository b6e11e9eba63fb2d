"""Tiles of an image (AnyRes): a view of the whole, then the tiles of the canvas that fits it best, row by row.

Source: transformers 5.23, models/llava_next; LLaVA, llava/mm_utils.py and llava_arch.py (`spatial_unpad`).

V views of an image, N patches of a view, s side of a view in pixels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLACK = (-1.79226255, -1.75209713, -1.48021955)
"""A black pixel, as the published processors normalise it (CLIP's mean and deviation): it fills up canvases."""


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into views."""

    height: int
    """Of the image, pixels."""
    width: int
    rows: int
    """Rows of tiles of the canvas."""
    columns: int

    @property
    def views(self) -> int:
        """The view of the whole image and the tiles."""
        return 1 + self.rows * self.columns


def tiling_of(height: int, width: int, side: int, canvases: Seq[tuple[int, int]]) -> Tiling:
    """The tiling of an image: its canvas shows the most of the image's own pixels, then wastes the fewest.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        side: of a view, pixels.
        canvases: height and width of those to choose from; of equals the first is taken.
    """

    def rank(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - canvas[0] * canvas[1]

    rows, columns = (length // side for length in max(canvases, key=rank))
    return Tiling(height, width, rows, columns)


def views_of(image_3HW: Tensor, tiling: Tiling, side: int) -> Tensor:
    """The views (V, 3, s, s) of an image: squeezed into one, then enlarged in proportion on a black canvas and cut."""
    canvas_hw = (tiling.rows * side, tiling.columns * side)
    height, width = _shown(tiling, canvas_hw)
    top, left = (canvas_hw[0] - height) // 2, (canvas_hw[1] - width) // 2
    canvas_3HW = image_3HW.new_tensor(BLACK)[:, None, None].repeat(1, *canvas_hw)
    canvas_3HW[:, top : top + height, left : left + width] = resized(image_3HW[None], (height, width))[0]
    tile_VHW = canvas_3HW.reshape(3, tiling.rows, side, tiling.columns, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
    return torch.cat([resized(image_3HW[None], (side, side)), tile_VHW])


def image_of(view_V3ss: Tensor, tiling: Tiling) -> Tensor:
    """The image (3, H, W) that was cut into these views, at the size that it has on its canvas."""
    side = view_V3ss.shape[-1]
    tiles = view_V3ss[1:].reshape(tiling.rows, tiling.columns, 3, side, side)
    canvas_3HW = tiles.permute(2, 0, 3, 1, 4).reshape(3, tiling.rows * side, tiling.columns * side)
    height, width = _shown(tiling, (canvas_3HW.shape[1], canvas_3HW.shape[2]))
    top, left = (canvas_3HW.shape[1] - height) // 2, (canvas_3HW.shape[2] - width) // 2
    return canvas_3HW[:, top : top + height, left : left + width]


def unpadded(token_VND: Tensor, tiling: Tiling, newline_D: Tensor) -> Tensor:
    """Vision tokens (N', D) of all patches: the view of the whole, then the canvas without its padding, row by row.

    Each row of the canvas ends in the newline.

    Args:
        token_VND: tokens of each view, as many as the view has patches.
        tiling: the image's.
        newline_D: the learned newline.
    """
    side = math.isqrt(token_VND.shape[1])
    grid = token_VND[1:].reshape(tiling.rows, tiling.columns, side, side, -1)
    canvas_RCD = grid.transpose(1, 2).reshape(tiling.rows * side, tiling.columns * side, -1)
    rows, columns = canvas_RCD.shape[:2]
    if tiling.width / tiling.height > columns / rows:
        covered = int(round(tiling.height * (columns / tiling.width), 7))
        edge = (rows - covered) // 2
        canvas_RCD = canvas_RCD[edge : rows - edge]
    else:
        covered = int(round(tiling.width * (rows / tiling.height), 7))
        edge = (columns - covered) // 2
        canvas_RCD = canvas_RCD[:, edge : columns - edge]
    newline_R1D = newline_D.to(token_VND).expand(len(canvas_RCD), 1, -1)
    return torch.cat([token_VND[0], torch.cat([canvas_RCD, newline_R1D], dim=1).flatten(0, 1)])


def some_patches(token_VND: Tensor, place_VN2: Tensor | None, tiling: Tiling, side: int) -> Tensor:
    """Vision tokens (V · N, D) where a technique has changed the number of patches: no row is whole, so none ends.

    The view of the whole as it is; then the tiles' tokens that have a place, in the order of the canvas; then those
    without one: of all tiles what stands before its first placed token (a class token), then the rest. Without places
    view follows view.

    Args:
        token_VND: tokens of each view.
        place_VN2: row and column of each in its view, −1 where it has none; None: none has.
        tiling: the image's.
        side: patches along the side of a view.

    Source: yang2025visionzip, visionzip/llava_arch.py.
    """
    if place_VN2 is None:
        return token_VND.flatten(0, 1)
    tile_N = torch.arange(tiling.rows * tiling.columns, device=token_VND.device)[:, None]
    row_VN = place_VN2[1:, :, 0] + tile_N // tiling.columns * side
    column_VN = place_VN2[1:, :, 1] + tile_N % tiling.columns * side
    placed_VN = place_VN2[1:, :, 0] >= 0
    leading_VN = placed_VN.long().cumsum(1) == 0
    key_VN = torch.where(placed_VN, row_VN * tiling.columns * side + column_VN, torch.where(leading_VN, 1, 2) << 40)
    order_M = key_VN.flatten().argsort(stable=True)
    return torch.cat([token_VND[0], token_VND[1:].flatten(0, 1)[order_M]])


def resized(frames_F3HW: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames at another height and width; the same tensor if they have it."""
    if frames_F3HW.shape[-2:] == size:
        return frames_F3HW
    return functional.interpolate(frames_F3HW, size, mode="bicubic", antialias=True)


def _shown(tiling: Tiling, canvas_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the image on its canvas, pixels."""
    across, down = canvas_hw[1] / tiling.width, canvas_hw[0] / tiling.height
    if across < down:
        return min(math.ceil(tiling.height * across), canvas_hw[0]), canvas_hw[1]
    return canvas_hw[0], min(math.ceil(tiling.width * down), canvas_hw[1])
