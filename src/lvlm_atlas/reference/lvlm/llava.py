"""The dialect of LLaVA-1.5 and LLaVA-NeXT: CLIP ViT, MLP adapter, one position axis.

B batch, F frames, T frames or tiles, N tokens, V views of an image or vision tokens of all, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.request import Request
from lvlm_atlas.reference.flow.states import Attending, Between, Patches
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.flow.vision_tokens import Block, VisionTokens, blocks_of, joined
from lvlm_atlas.reference.lvlm.activation import ACTIVATIONS
from lvlm_atlas.reference.lvlm.config import LVLMConfig
from lvlm_atlas.reference.lvlm.prompt import Clip, Prompt, expand, places, places_in_text
from lvlm_atlas.reference.lvlm.tiles import Tiling, image_of, resized, some_patches, tiling_of, unpadded, views_of
from lvlm_atlas.reference.lvlm.vision import VisionTower


class Projector(nn.Module):
    """The adapter: linear, activation, linear."""

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.vision.hidden_size, config.text.hidden_size, bias=config.projector_bias)
        self.linear_2 = nn.Linear(config.text.hidden_size, config.text.hidden_size, bias=config.projector_bias)
        self.act = ACTIVATIONS[config.projector_hidden_act]

    def forward(self, hidden_FND: Tensor) -> Tensor:
        """(F, N, D_v) → (F, N, D)."""
        out: Tensor = self.linear_2(self.act(self.linear_1(hidden_FND)))
        return out


class Llava(nn.Module):
    """What is LLaVA's own between pixels and decoder; see `lvlm_atlas.reference.lvlm.dialect.Dialect`.

    With `image_grid_pinpoints` it is LLaVA-NeXT: an image is cut into tiles, each encoded like an image of its own.
    """

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config)
        self.adapter = Projector(config)
        if config.image_grid_pinpoints:
            self.image_newline = nn.Parameter(torch.randn(config.text.hidden_size))

    def clips(self, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None) -> tuple[Clip, ...]:
        """See `Dialect`: frames (F, 3, H, W) of all images at once; tiled, (F, views, 3, H, W) and sizes (F, 2)."""
        if pixel_values is None:
            return ()
        side, tiled = self.config.vision.image_size, bool(self.config.image_grid_pinpoints)
        shape, dims = tuple(pixel_values.shape), 5 if tiled else 4
        if len(shape) != dims or shape[-3:] != (3, side, side):
            raise ValueError(f"pixel_values must be (F, {'views, ' * tiled}3, {side}, {side}), got {shape}")
        if not tiled:
            return (Clip(pixel_values),)
        if image_sizes is None or tuple(image_sizes.shape) != (len(pixel_values), 2):
            raise ValueError(f"image_sizes must be height and width of each of {len(pixel_values)} images")
        tilings = tuple(self._tiling(height, width) for height, width in image_sizes.tolist())
        views = [view_V3ss[: tiling.views] for view_V3ss, tiling in zip(pixel_values, tilings, strict=True)]
        return (Clip(torch.cat(views), tilings=tilings),)

    def images(self, clips: Seq[Clip]) -> tuple[Tensor, ...]:
        """See `Dialect`: of a tiled image what its tiles hold."""
        images: list[Tensor] = []
        for clip in clips:
            parts = torch.split(clip.frames_F3HW, [tiling.views for tiling in clip.tilings]) if clip.tilings else ()
            images += [image_of(view_V3ss, tiling) for view_V3ss, tiling in zip(parts, clip.tilings, strict=True)]
            images += [] if clip.tilings else clip.frames_F3HW
        return tuple(images)

    def split(self, request: Request) -> tuple[Clip, ...]:
        """See `Dialect`: all images at once, resized to the tower's size or cut into tiles of it."""
        if not request.runs:
            return ()
        side = self.config.vision.image_size
        if not self.config.image_grid_pinpoints:
            return (Clip(torch.cat([resized(frames_F3HW, (side, side)) for frames_F3HW in request.runs])),)
        tilings = tuple(self._tiling(*frame.shape[-2:]) for frame in request.frames_F3HW)
        views = [views_of(frame, tiling, side) for frame, tiling in zip(request.frames_F3HW, tilings, strict=True)]
        return (Clip(torch.cat(views), tilings=tilings),)

    @property
    def offers(self) -> frozenset[str]:
        """See `Dialect`."""
        met = {
            "cls-token", "free-patches", "vision-in-sequence", "one-position-axis", "full-encoder-attention",
        }  # fmt: skip
        unread = self.config.encoder_layers < self.config.vision.num_hidden_layers
        return frozenset(met | ({"unread-encoder-layer"} if unread else set()))

    def patches(
        self, frames_F3HW: Tensor, trace: Trace, between: Between, attending: Attending | None = None
    ) -> Patches:
        """See `Dialect`."""
        out: Patches = self.vision_tower(frames_F3HW, trace, between, attending)
        return out

    def features(self, patches: Patches) -> Tensor:
        """See `Dialect`: without the class token, unless the configuration keeps it."""
        if self.config.vision_feature_select_strategy == "full":
            return patches.hidden_FND
        return patches.hidden_FND[:, patches.prefix :]

    def vision_tokens(self, token_TND: Tensor | tuple[Tensor, ...], patches: Patches, clip: Clip) -> VisionTokens:
        """See `Dialect`: positions do not depend on the patches, so any number will do, another one a frame too."""
        if isinstance(token_TND, tuple):
            return _uneven(token_TND, clip)
        if len(token_TND) == 1 < len(clip.frames_F3HW):  # of all frames, or views, together
            return VisionTokens(blocks_of(token_TND))
        side = math.isqrt(self.config.vision.patches)
        place_TN2 = patches.place_FN2
        if place_TN2 is not None and self.config.vision_feature_select_strategy != "full":
            place_TN2 = place_TN2[:, patches.prefix :]
        if place_TN2 is not None and place_TN2.shape[1] != token_TND.shape[1]:
            place_TN2 = None  # known of other tokens than these
        arrived = patches.hidden_FND.shape[1] - patches.prefix
        whole = patches.on_grid and arrived == token_TND.shape[1] == side**2
        if not clip.tilings:
            return VisionTokens(blocks_of(token_TND, place_TN2), (side, side) if whole else None)
        views = [tiling.views for tiling in clip.tilings]
        if len(token_TND) == sum(views) - len(views):  # without the views of the whole
            parts = torch.split(token_TND, [number - 1 for number in views])
            return VisionTokens(tuple(Block(view_VND.flatten(0, 1)) for view_VND in parts))
        blocks, first = [], 0
        for tiling in clip.tilings:
            view_VND = token_TND[first : first + tiling.views]
            if whole:
                token_ND = unpadded(view_VND, tiling, self.image_newline)
            else:
                place_VN2 = None if place_TN2 is None else place_TN2[first : first + tiling.views]
                token_ND = some_patches(view_VND, place_VN2, tiling, side)
            blocks.append(Block(token_ND))
            first += tiling.views
        return VisionTokens(tuple(blocks))

    def expand(self, request: Request, tokens: Seq[VisionTokens]) -> Tensor:
        """See `Dialect`."""
        lengths = [length for each in tokens for length in each.lengths]
        return expand(request, lengths)

    def prompt(self, ids_BN: Tensor, real_BN: Tensor | None, tokens: Seq[VisionTokens]) -> Prompt:
        """See `Dialect`."""
        vision_VD, _ = joined(block for each in tokens for block in each.blocks)
        is_vision_BN = ids_BN == self.config.image_token_id
        position_BN = places_in_text(ids_BN, real_BN)
        spans = tuple(length for each in tokens for length in each.lengths)
        place_V3 = places(block for each in tokens for block in each.blocks)
        return Prompt(ids_BN, is_vision_BN, vision_VD, position_BN, real_BN, spans, place_V3=place_V3)

    def _tiling(self, height: int, width: int) -> Tiling:
        return tiling_of(height, width, self.config.vision.image_size, self.config.image_grid_pinpoints)


def _uneven(token_ND: tuple[Tensor, ...], clip: Clip) -> VisionTokens:
    """Blocks of frames or views that have different numbers of vision tokens; of a tiled image view follows view."""
    views = [tiling.views for tiling in clip.tilings] or [1] * len(token_ND)
    rest = iter(token_ND)
    return VisionTokens(tuple(Block(torch.cat([next(rest) for _ in range(number)])) for number in views))
