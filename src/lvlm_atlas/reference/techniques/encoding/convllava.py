"""ConvLLaVA: a ConvNeXt in the place of the ViT, and a fifth stage behind it, so that a token covers 64 × 64 pixels.

Paper: ge2024convllava; code: alibaba/conv-llava, llava/model/multimodal_encoder/convnext_encoder.py
(`ConvNeXtCLIPVisionTower`, `add_stage`), on the ConvNeXt of transformers (`ConvNextModel`, `ConvNextStage`).

Symbols: R → resolution, width of the first stage → width, blocks of the five stages → depths.

Departs:
1. Each stage is twice as wide as the one before; the authors give the width of the fifth by hand, and released twice.
2. Frames come in the size of the model's own tower and are resized from it; the authors' processor has the original.
3. A linear layer leads from the map to the width of the model's encoder, and the model's adapter follows. The authors'
   adapter, linear, GELU, linear, reads the map itself.
4. The option to drop the last block of the fourth stage, which the training scripts leave off, is not here.
5. The weights are random unless trained ones are given.

F frames, H rows and W columns of pixels or of a map, h and w those of the last map, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import Encoder
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.backbone import ChannelNorm, encoded_by, expect_multiple

STAGES = 5
STRIDE = 4 * 2 ** (STAGES - 1)
"""Pixels along a side of what becomes one token."""
_EPS = 1e-6


class Block(nn.Module):
    """ConvNeXt's block: 7 × 7 in each channel alone, then an MLP of four times the width at each place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, _EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.act = nn.GELU()
        self.layer_scale_parameter = nn.Parameter(torch.ones(channels))

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        y_FHWC = self.norm(self.dwconv(x_FCHW).permute(0, 2, 3, 1))
        y_FHWC = self.layer_scale_parameter * self.pwconv2(self.act(self.pwconv1(y_FHWC)))
        out_FCHW: Tensor = x_FCHW + y_FHWC.permute(0, 3, 1, 2)
        return out_FCHW


def stage(channels: int, depth: int) -> nn.Sequential:
    """Halves the map and doubles its channels, then runs `depth` blocks: (F, C, H, W) → (F, 2 C, H / 2, W / 2)."""
    down = [ChannelNorm(channels, _EPS), nn.Conv2d(channels, 2 * channels, 2, stride=2)]
    return nn.Sequential(*down, *(Block(2 * channels) for _ in range(depth)))


class ConvNeXt(nn.Module):
    """The network: (F, 3, R, R) → (F, 16 · width, R / 64, R / 64)."""

    def __init__(self, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, width, 4, stride=4), ChannelNorm(width, _EPS)]
        first = nn.Sequential(*stem, *(Block(width) for _ in range(depths[0])))
        rest = [stage(width * 2**index, depth) for index, depth in enumerate(depths[1:])]
        self.stages = nn.Sequential(first, *rest)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """(F, 3, H, W) → (F, C, h, w)."""
        out_FChw: Tensor = self.stages(frames_F3HW)
        return out_FChw


@dataclass(frozen=True)
class ConvLLaVA(Technique):
    """At `encoder`: (resolution / 64)² patches of each frame.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `resolution` is no multiple of 64.
    """

    resolution: int = 1536
    width: int = 192
    depths: tuple[int, ...] = (3, 3, 27, 3, 6)

    acts_at: ClassVar = ("encoder",)
    needs: ClassVar = ("free-patches", "training-data")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "width")
        if len(self.depths) != STAGES or min(self.depths) < 0:
            raise ValueError(f"depths must be {STAGES} numbers of at least 0, got {self.depths}")
        expect_multiple(self.resolution, STRIDE)

    def begin(self, run: Run) -> Any:
        """The encoder with its weights, which all resolutions share."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: ConvLLaVA
    run: Run

    def encode(self, at: Encoder) -> Patches:
        """The patches (F, N, D_v) of the fifth stage."""
        width, depths = self.setting.width, self.setting.depths

        def build() -> tuple[nn.Module, int]:
            return ConvNeXt(width, depths), width * 2 ** (STAGES - 1)

        return encoded_by(at, self.run, (ConvLLaVA, width, depths), build, self.setting.resolution)
