"""Dialects at native resolution: what Qwen2.5-VL and Qwen3-VL share. A 2 × 2 merger, positions on three axes.

B batch, F frames, T temporal patches, N tokens, D width. Axes of a position: time, row, column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Attending, Between, Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import VisionTokens, blocks_of, grid_places, joined
from lvlm_atlas.reference.lvlm.config import NativeLVLMConfig
from lvlm_atlas.reference.lvlm.mrope import in_order, positions
from lvlm_atlas.reference.lvlm.native_vision import NativeTower
from lvlm_atlas.reference.lvlm.prompt import Clip, Prompt, expand, one_each, places, places_error
from lvlm_atlas.reference.lvlm.resolution import smart_resize
from lvlm_atlas.reference.lvlm.tiles import resized
from lvlm_atlas.reference.lvlm.windows import to_frames
from lvlm_atlas.reference.refusal import Refusal


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
    def parts(self, video: VisionTokens) -> Iterable[VisionTokens]:
        """What of a video stands together in the prompt, and has positions together."""

    def images(self, clips: Seq[Clip]) -> tuple[Tensor, ...]:
        """See `Dialect`: a temporal patch holds copies of one."""
        depth = self.config.vision.temporal_patch_size
        return tuple(frame for clip in clips for frame in clip.frames_F3HW[::depth])

    def split(self, request: Request) -> tuple[Clip, ...]:
        """See `Dialect`: stills are repeated to fill a temporal patch each, a video's last frame if one is missing.

        Frames whose sides are no multiples of a token's are resized.
        """
        clips: list[Clip] = []
        for frames in request.clips:
            runs = [self._resized(run_F3HW) for run_F3HW in request.runs_of(frames)]
            if self.are_stills(request, frames):
                depth = self.config.vision.temporal_patch_size
                clips += [Clip(frames_F3HW.repeat_interleave(depth, dim=0)) for frames_F3HW in runs]
            elif len(runs) > 1:
                raise Refusal(
                    f"the frames of a video must be of one size, but here are {len(runs)} runs of different ones; "
                    f"resize them alike, or give them as images, each behind the placeholder "
                    f"{self.config.image_token_id}"
                )
            else:
                clips.append(self._video(runs[0], request.seconds_F[frames]))
        return tuple(clips)

    @property
    def offers(self) -> frozenset[str]:
        """See `Dialect`: no class token; the merger and the positions want the whole grid."""
        return frozenset({"vision-in-sequence"})

    def patches(
        self, frames_F3HW: Tensor, trace: Trace, between: Between, attending: Attending | None = None
    ) -> Patches:
        """See `Dialect`."""
        out: Patches = self.vision_tower(frames_F3HW, trace, between, attending)
        return out

    def features(self, patches: Patches) -> Tensor:
        """See `Dialect`: all patches."""
        return patches.hidden_FND

    def vision_tokens(self, token_TND: Tensor | tuple[Tensor, ...], patches: Patches, clip: Clip) -> VisionTokens:
        """See `Dialect`: each token is a square of the grid."""
        merge = self.config.vision.spatial_merge_size
        rows, columns = patches.grid or (0, 0)
        grid = (rows // merge, columns // merge)
        if isinstance(token_TND, tuple) or token_TND.shape[1] != grid[0] * grid[1]:
            numbers = ", ".join(map(str, sorted({len(token_ND) for token_ND in token_TND})))
            raise ValueError(
                f"the adapter gives {numbers} vision tokens where the positions of this model need "
                f"{grid[0]} × {grid[1]}; an adapter that changes their number needs `free-patches` and must declare it"
            )
        place_TN2 = grid_places(*grid).expand(len(token_TND), -1, -1)
        return VisionTokens(blocks_of(token_TND, place_TN2, patches.deepstack_FNLD), grid, clip.time_T)

    def expand(self, request: Request, tokens: Seq[VisionTokens]) -> Tensor:
        """See `Dialect`: the first frame of a temporal patch stands for it."""
        depth, rest, lengths = self.config.vision.temporal_patch_size, iter(tokens), list[int]()
        for frames in request.clips:
            count = frames.stop - frames.start
            if self.are_stills(request, frames):
                given = [length for _ in request.runs_of(frames) for length in next(rest).lengths]
            else:
                given = [length for block in next(rest).lengths for length in (block, *[0] * (depth - 1))][:count]
            lengths += one_each(given, count)
        return expand(request, lengths)

    def prompt(self, ids_BN: Tensor, real_BN: Tensor | None, tokens: Seq[VisionTokens]) -> Prompt:
        """See `Dialect`: text counts on all axes alike, and goes on behind the longer side of a picture."""
        image, video = self.config.image_token_id, self.config.video_token_id
        is_vision_BN = (ids_BN == image) | (ids_BN == video)
        marked, given = int(is_vision_BN.sum()), sum(length for each in tokens for length in each.lengths)
        if marked != given:
            raise places_error(marked, given)
        waiting = {
            image: iter([still for each in tokens if each.time_T is None for still in each.stills()]),
            video: iter([part for each in tokens if each.time_T is not None for part in self.parts(each)]),
        }
        position_BN3 = torch.zeros(*ids_BN.shape, 3, dtype=torch.long)
        met: list[VisionTokens] = []
        next_B = torch.zeros(len(ids_BN), dtype=torch.long)
        for row, ids_N in enumerate(ids_BN.cpu()):
            real_N = torch.ones_like(ids_N, dtype=torch.bool) if real_BN is None else real_BN[row].cpu()
            pieces = list(in_order(ids_N[real_N], waiting))
            met += [piece for piece in pieces if isinstance(piece, VisionTokens)]
            position_BN3[row, real_N], next_B[row] = positions(pieces)
        blocks = [block for piece in met for block in piece.blocks]
        vision_VD, deepstack_VLD = joined(blocks)
        spans = tuple(length for piece in met for length in piece.lengths)
        return Prompt(
            ids_BN, is_vision_BN, vision_VD, position_BN3, real_BN, spans, deepstack_VLD, next_B, places(blocks)
        )

    def are_stills(self, request: Request, clip: slice) -> bool:
        """Whether frames of a request are stills, by their placeholder."""
        return request.image_token_id == self.config.image_token_id and not request.is_video(clip)

    def _video(self, frames_F3HW: Tensor, second_F: Tensor) -> Clip:
        """A video of whole temporal patches."""
        missing = -len(frames_F3HW) % self.config.vision.temporal_patch_size
        time_T = self.times(torch.cat([second_F, second_F[-1:].expand(missing)]))
        return Clip(torch.cat([frames_F3HW, frames_F3HW[-1:].expand(missing, -1, -1, -1)]), time_T)

    def _resized(self, frames_F3HW: Tensor) -> Tensor:
        height, width = frames_F3HW.shape[-2:]
        factor = self.config.vision.factor
        fits = height % factor == 0 == width % factor
        return frames_F3HW if fits else resized(frames_F3HW, smart_resize(height, width, factor))

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
