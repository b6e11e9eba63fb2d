"""TokenPacker: a coarse token for each square of patches attends to the fine features of its own square alone.

Paper: li2025tokenpacker, algorithms 1 and 2 as the repository shows them; code: CircleRadon/TokenPacker,
llava/model/multimodal_projector/builder.py (`TokenPacker`), llava/model/multimodal_encoder/clip_encoder.py
(`feature_select`).

Symbols: scale_factor s → scale_factor, layers [12, 16, 22, 23] → layers, embed_dim → width, num_heads → heads.

Departs:
1. The cutting of large images into tiles (TokenPacker-HD) is that of the model, with its own marks between rows.
2. The code writes the widths of CLIP-L into the MLPs of keys and values; here they follow from the encoder and `width`.
3. The weights are random unless trained ones are given.

F frames, H rows and W columns of patches, N patches, C channels, M squares, s patches along a side of one, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import Adapter, EncoderLayer
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.grid import square_side
from lvlm_atlas.reference.modules.kept import module_of
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.refusal import Refusal

EPS = 1e-6
"""Of the norms."""


def coarse_grid(patch_FNC: Tensor, factor: int) -> Tensor:
    """A square of patches at 1 / factor of its side (F, M, C): bilinear, corners not on corners, in float32."""
    side = math.isqrt(patch_FNC.shape[1])
    square = patch_FNC.float().mT.unflatten(2, (side, side))
    small = functional.interpolate(square, (side // factor, side // factor), mode="bilinear", align_corners=False)
    return small.flatten(2).mT.to(patch_FNC.dtype)


def squares_of(patch_FNC: Tensor, factor: int) -> Tensor:
    """The patches (F, M, factor², C) of each square of a grid, squares and what is in them row by row."""
    side = math.isqrt(patch_FNC.shape[1])
    cut = patch_FNC.reshape(len(patch_FNC), side // factor, factor, side // factor, factor, -1).transpose(2, 3)
    return cut.flatten(3, 4).flatten(1, 2)


def two_linears(channels: int, out: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(channels, out), nn.GELU(), nn.Linear(out, out))


class PointToRegion(nn.Module):
    """From a whole square of N patches, and the features of several layers, to M = N / s² tokens of the LLM."""

    def __init__(self, channels: int, out: int, setting: TokenPacker) -> None:
        super().__init__()
        width, fine = setting.width, len(setting.layers) * channels
        self.heads, self.factor = setting.heads, setting.scale_factor
        self.coarse = nn.Linear(channels, width, bias=False)
        self.fine_key, self.fine_value = two_linears(fine, width), two_linears(fine, width)
        self.query_norm, self.key_norm, self.value_norm = (nn.LayerNorm(width, EPS) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.readout = two_linears(width, out)

    def forward(self, patch_FNC: Tensor, fine_FNE: Tensor) -> Tensor:
        """(F, N, C), the features of all layers side by side (F, N, E) → (F, M, D)."""
        query_FMW = self.query_norm(self.coarse(coarse_grid(patch_FNC, self.factor)))
        key_FNW = self.key_norm(self.fine_key(fine_FNE))
        value_FNW = self.value_norm(self.fine_value(fine_FNE))
        squares = (squares_of(each, self.factor) for each in (self.key(key_FNW), self.value(value_FNW)))
        heads = (
            each.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query(query_FMW)[:, :, None], *squares)
        )
        read_FMW = self.out(attend(*heads).transpose(1, 2).flatten(1).unflatten(0, query_FMW.shape[:2]))
        out_FMD: Tensor = self.readout(read_FMW)
        return out_FMD


@dataclass(frozen=True)
class TokenPacker(Technique):
    """At `encoder-layer` it notes what enters some layers; at `adapter`, a vision token for `scale_factor`² patches.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `width` is no multiple of `heads`.
    """

    scale_factor: int = 2
    layers: tuple[int, ...] = (12, 16, 22, 23)
    """How many layers the features have behind them; the last is as many as run."""
    width: int = 1024
    heads: int = 8

    acts_at: ClassVar = ("encoder-layer", "adapter")
    needs: ClassVar = ("free-patches", "visual-features", "encoder-states", "training-data", "whole-grid")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "scale_factor", "width", "heads")
        if not self.layers or min(self.layers) < 0 or [*self.layers] != sorted({*self.layers}):
            raise ValueError(f"layers must rise from 0 or more, got {[*self.layers]}")
        if self.width % self.heads:
            raise Refusal(f"width must be a multiple of the {self.heads} heads, got {self.width}")

    def begin(self, run: Run) -> Any:
        """The adapter with its weights.

        Raises:
            Refusal: fewer layers run than `layers` names.
        """
        run_layers = run.config.encoder_layers
        if self.layers[-1] > run_layers:
            raise Refusal(f"the encoder runs {run_layers} layers, so layers must end there, got {[*self.layers]}")
        widths = run.config.vision.hidden_size, run.config.text.hidden_size
        return _Acting(self, run, module_of(run, self, lambda: PointToRegion(*widths, self)))


@dataclass
class _Acting:
    """The technique in a run."""

    setting: TokenPacker
    run: Run
    packer: PointToRegion
    noted: dict[int, Tensor] = field(default_factory=dict)
    """Of the clip that is encoded, the patches that entered each layer of interest."""

    def encoder_layer(self, at: EncoderLayer) -> Patches:
        """The patches as they are."""
        if at.layer in self.setting.layers and at.patches.entered_FND is not None:
            self.noted[at.layer] = at.patches.entered_FND[:, at.patches.prefix :]
        return at.patches

    def adapt(self, at: Adapter) -> Tensor:
        """The vision tokens (F, M, D).

        Raises:
            Refusal: the patches form no whole square, or one whose side `scale_factor` does not divide.
        """
        side, factor = square_side(at, self.run), self.setting.scale_factor
        if side % factor:
            raise Refusal(f"scale_factor must divide {side}, the patches along a side, got {factor}")
        fine_FNE = torch.cat([self.noted.get(layer, at.hidden_FND) for layer in self.setting.layers], dim=-1)
        self.noted.clear()
        out_FMD: Tensor = self.packer(at.hidden_FND, fine_FNE)
        return out_FMD
