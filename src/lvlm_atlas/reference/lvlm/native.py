"""Dialects at native resolution: what Qwen2.5-VL and Qwen3-VL share. A 2 × 2 merger, positions on three axes.

B batch, F frames, T temporal patches, N tokens, D width. Axes of a position: time, row, column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Attending, Between, Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import NativeLVLMConfig
from lvlm_atlas.reference.lvlm.mrope import in_order, positions
from lvlm_atlas.reference.lvlm.native_vision import NativeTower
from lvlm_atlas.reference.lvlm.prompt import Clip, Prompt, Seen, expand, places_error, same_size
from lvlm_atlas.reference.lvlm.resolution import smart_resize
from lvlm_atlas.reference.lvlm.windows import to_frames


class NativeVL(nn.Module, ABC):
    """What both do alike between pixels and decoder; see `lvlm_atlas.reference.lvlm.dialect.Dialect`."""

    def __init__(self, config: NativeLVLMConfig, tower: NativeTower, adapter: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = tower
        self.adapter = adapter

    @abstractmethod
    def times(self, second_F: Tensor) -> Tensor:
        """When each temporal patch was (T,), as the dialect counts it, from when its frames were, seconds."""

    @abstractmethod
    def parts(self, video: Seen) -> Iterable[Seen]:
        """What of a video stands together in the prompt, and has positions together."""

    def stills(self, clips: Seq[Clip]) -> Tensor:
        """See `Dialect`: a temporal patch holds copies of one."""
        return same_size([clip.frames_F3HW[:: self.config.vision.temporal_patch_size] for clip in clips])

    def clip(self, request: Request) -> Clip:
        """See `Dialect`: stills are repeated to fill a temporal patch each, a video's last frame if one is missing."""
        depth, frames_F3HW = self.config.vision.temporal_patch_size, request.frames_F3HW
        if request.image_token_id == self.config.image_token_id:
            return Clip(frames_F3HW.repeat_interleave(depth, dim=0))
        missing, second_F = -len(frames_F3HW) % depth, request.seconds_F
        time_T = self.times(torch.cat([second_F, second_F[-1:].expand(missing)]))
        return Clip(torch.cat([frames_F3HW, frames_F3HW[-1:].expand(missing, -1, -1, -1)]), time_T)

    @property
    def offers(self) -> frozenset[str]:
        """See `Dialect`: no class token; the merger and the positions want the whole grid."""
        return frozenset({"vision-in-sequence"})

    def patches(
        self, frames_F3HW: Tensor, trace: Trace, between: Between, attending: Attending | None = None
    ) -> Patches:
        """See `Dialect`: frames whose sides are no multiples of a token's are resized."""
        factor = self.config.vision.factor
        height, width = frames_F3HW.shape[-2:]
        if height % factor or width % factor:
            size = smart_resize(height, width, factor)
            frames_F3HW = functional.interpolate(frames_F3HW, size, mode="bicubic", antialias=True)
        out: Patches = self.vision_tower(frames_F3HW, trace, between, attending)
        return out

    def features(self, patches: Patches) -> Tensor:
        """See `Dialect`: all patches."""
        return patches.hidden_FND

    def seen(self, tokens_TND: Tensor, patches: Patches, clip: Clip) -> Seen:
        """See `Dialect`: each token is a square of the grid."""
        merge = self.config.vision.spatial_merge_size
        rows, columns = patches.grid or (0, 0)
        grid = (rows // merge, columns // merge)
        if tokens_TND.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"the adapter gives {tokens_TND.shape[1]} vision tokens where the positions of this model need "
                f"{grid[0]} × {grid[1]}; an adapter that changes their number needs `free-patches` and must declare it"
            )
        return Seen(tokens_TND, grid, clip.time_T, patches.deepstack_FNLD)

    def expand(self, request: Request, seen: Seen) -> Tensor:
        """See `Dialect`: the first frame of a temporal patch stands for it."""
        depth, tokens = self.config.vision.temporal_patch_size, seen.tokens_TND.shape[1]
        frames = len(request.frames_F3HW)
        stills = seen.time_T is None
        each = [tokens if stills or frame % depth == 0 else 0 for frame in range(frames)]
        return expand(request.prompt_N, request.image_token_id, each)

    def prompt(self, ids_BN: Tensor, real_BN: Tensor | None, seen: Seq[Seen]) -> Prompt:
        """See `Dialect`: text counts on all axes alike, and goes on behind the longer side of a picture."""
        image, video = self.config.image_token_id, self.config.video_token_id
        is_vision_BN = (ids_BN == image) | (ids_BN == video)
        places, tokens = int(is_vision_BN.sum()), sum(each.tokens_TND[..., 0].numel() for each in seen)
        if places != tokens:
            raise places_error(places, tokens)
        waiting = {
            image: iter([still for each in seen if each.time_T is None for still in each.apart()]),
            video: iter([part for each in seen if each.time_T is not None for part in self.parts(each)]),
        }
        position_BN3 = torch.zeros(*ids_BN.shape, 3, dtype=torch.long)
        met: list[Seen] = []
        for row, ids_N in enumerate(ids_BN.cpu()):
            real_N = torch.ones_like(ids_N, dtype=torch.bool) if real_BN is None else real_BN[row].cpu()
            pieces = list(in_order(ids_N[real_N], waiting))
            met += [piece for piece in pieces if isinstance(piece, Seen)]
            position_BN3[row, real_N] = positions(pieces)
        vision_VD = torch.cat([piece.tokens_TND.flatten(0, 1) for piece in met]) if met else torch.empty(0)
        deepstack = [piece.deepstack_TNLD.flatten(0, 1) for piece in met if piece.deepstack_TNLD is not None]
        spans = tuple(length for piece in met for length in piece.span_lengths)
        deepstack_VLD = torch.cat(deepstack) if deepstack else None
        return Prompt(ids_BN, is_vision_BN, vision_VD, position_BN3, real_BN, spans, deepstack_VLD)

    def pictures(self, pixel_Px: Tensor | None, grid_P3: Tensor | None) -> Iterator[Tensor]:
        """The frames of each picture of a published processor."""
        if pixel_Px is None:
            return
        config = self.config.vision
        width = 3 * config.temporal_patch_size * config.patch_size**2
        if grid_P3 is None or pixel_Px.dim() != 2 or pixel_Px.shape[1] != width:
            raise ValueError(f"pixels must be (P, {width}) and come with their grid, got {tuple(pixel_Px.shape)}")
        grids = [(times, rows, columns) for times, rows, columns in grid_P3.tolist()]
        counts = [times * rows * columns for times, rows, columns in grids]
        if sum(counts) != len(pixel_Px):
            raise ValueError(f"the grids hold {sum(counts)} patches, got pixels of {len(pixel_Px)}")
        for part, grid in zip(torch.split(pixel_Px, counts), grids, strict=True):
            yield to_frames(part, grid, config)
