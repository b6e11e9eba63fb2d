"""Which patches of a picture attend to each other, and in which order they stand.

N patches of a picture, W windows of a size, L patches of a window, T temporal patches, F frames, P patches in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm.config import NativeVisionConfig, WindowVisionConfig


@dataclass(frozen=True)
class Windows:
    """A partition of a picture's patches."""

    window_N: Tensor
    """The window of each patch."""
    groups: tuple[Tensor, ...]
    """Places (W, L) of the patches of each window; windows of one size together, since edges cut some short."""

    @property
    def pairs(self) -> int:
        """Scores that attention inside them forms, a head."""
        return sum(place_WL.numel() * place_WL.shape[1] for place_WL in self.groups)


def partition(window_N: Tensor) -> Windows:
    """The windows by their sizes, places ascending in each."""
    order_N = window_N.argsort(stable=True)
    windows = torch.split(order_N, window_N.bincount().tolist())
    sizes = sorted({len(window) for window in windows})
    groups = tuple(torch.stack([w for w in windows if len(w) == size]) for size in sizes if size)
    return Windows(window_N, groups)


def coordinates(rows: int, columns: int, config: NativeVisionConfig, device: torch.device) -> Tensor:
    """Row and column (N, 2) of each patch, in the tower's order: square after square of those that are merged."""
    merge = config.spatial_merge_size
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    place_RC2 = torch.stack([row, column], dim=-1)
    squares = place_RC2.reshape(rows // merge, merge, columns // merge, merge, 2).transpose(1, 2)
    return squares.reshape(-1, 2)


def windows_of(place_N2: Tensor, config: WindowVisionConfig) -> Windows:
    """Windows of `window_size` pixels, cut from the top left; those at the right and bottom may be smaller."""
    side = config.window_size // config.factor * config.spatial_merge_size
    across = place_N2[:, 1].max() // side + 1
    return partition(place_N2[:, 0] // side * across + place_N2[:, 1] // side)


def whole(place_N2: Tensor) -> Windows:
    """One window of all patches."""
    place_N = torch.arange(len(place_N2), device=place_N2.device)
    return Windows(torch.zeros_like(place_N), (place_N[None],))


def to_patches(frames_F3HW: Tensor, config: NativeVisionConfig) -> Tensor:
    """Pixels (T, N, 3 · frames · p · p) of each patch, in the tower's order."""
    p, merge = config.patch_size, config.spatial_merge_size
    rows, columns = (side // p // merge for side in frames_F3HW.shape[-2:])
    x = frames_F3HW.reshape(-1, config.temporal_patch_size, 3, rows, merge, p, columns, merge, p)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # time, row and column of the square, of the patch in it, its pixels
    return x.reshape(x.shape[0], rows * columns * merge**2, -1)


def to_frames(pixel_Px: Tensor, grid: tuple[int, int, int], config: NativeVisionConfig) -> Tensor:
    """The inverse for the patches of one picture: frames (F, 3, H, W).

    Args:
        pixel_Px: pixels (P, 3 · frames · p · p) as the published processor gives them.
        grid: temporal patches, rows and columns of patches.
        config: sizes of patches.
    """
    p, merge = config.patch_size, config.spatial_merge_size
    (times, rows, columns), t = grid, config.temporal_patch_size
    x = pixel_Px.reshape(times, rows // merge, columns // merge, merge, merge, 3, t, p, p)
    return x.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(times * t, 3, rows * p, columns * p)
