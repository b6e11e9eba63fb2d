"""FastVLM: its encoder FastViTHD is FastViT with a fifth stage and attention in the last two, 64 × 64 pixels a token.

Paper: vasu2025fastvlm; code: apple/ml-fastvlm, llava/model/multimodal_encoder/mobileclip/mci.py (`fastvithd`) and
mobileclip_encoder.py.

Symbols: R → resolution, channels of the first stage → width, blocks of each stage → depths.

Departs:
1. Each stage is twice as wide as the one before, and MLPs are four times as wide inside, as in the released network.
2. Frames come in the size of the model's own tower and are resized from it, and in its normalisation; the authors'
   processor hands on pixels between 0 and 1.
3. A linear layer leads from the map to the width of the model's encoder, and the model's adapter follows. The authors'
   adapter, linear, GELU, linear, reads the map itself.
4. The run uses the folded network, the form in which the authors released it; `FastViTHD(folded=False)` is trained.
5. The weights are random unless trained ones are given.

F frames, H rows and W columns of pixels or of a map, h and w those of the last map, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import Encoder
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.backbone import ChannelNorm, encoded_by, expect_multiple
from lvlm_atlas.reference.techniques.encoding.fastvit import Network, expect_heads, mobile_one

STAGES = 5
STRIDE = 4 * 2 ** (STAGES - 1)
"""Pixels along a side of what becomes one token."""
ATTENDING = (3, 4)
"""Stages whose blocks attend, at strides of 32 and 64 pixels."""
MLP_RATIO = 4
EXPANSION = 2
"""Channels that leave for each of the last stage."""
SQUEEZE = 16
"""Channels that leave for each that is left when they are squeezed."""


class Expansion(nn.Module):
    """Doubles the channels by a 3 × 3 convolution in each alone, scales each by what the whole map says, then GELU."""

    def __init__(self, channels: int, *, folded: bool) -> None:
        super().__init__()
        out = EXPANSION * channels
        self.conv = mobile_one(channels, out, 3, groups=channels, folded=folded)
        self.squeeze = nn.Conv2d(out, out // SQUEEZE, 1)
        self.excite = nn.Conv2d(out // SQUEEZE, out, 1)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, 2 C, H, W)."""
        y = self.conv(x_FCHW)
        gate = self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return functional.gelu(y * gate)


class FastViTHD(nn.Module):
    """The network: (F, 3, R, R) → (F, 32 · width, R / 64, R / 64)."""

    def __init__(self, width: int, depths: tuple[int, ...], *, folded: bool) -> None:
        super().__init__()
        norm = partial(ChannelNorm, eps=1e-5)
        self.stages = Network(
            width, depths, MLP_RATIO, ATTENDING, folded=folded, norm=norm, small=False, active=True
        )  # fmt: skip
        self.expansion = Expansion(width * 2 ** (STAGES - 1), folded=folded)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """(F, 3, H, W) → (F, C, h, w)."""
        out_FChw: Tensor = self.expansion(self.stages(frames_F3HW))
        return out_FChw


@dataclass(frozen=True)
class FastVLM(Technique):
    """At `encoder`: (resolution / 64)² patches of each frame.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `resolution` is no multiple of 64, or `width` none of 4.
    """

    resolution: int = 1024
    width: int = 96
    depths: tuple[int, ...] = (2, 12, 24, 4, 2)

    acts_at: ClassVar = ("encoder",)
    needs: ClassVar = ("free-patches", "training-data")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "width")
        if len(self.depths) != STAGES or min(self.depths) < 0:
            raise ValueError(f"depths must be {STAGES} numbers of at least 0, got {self.depths}")
        expect_multiple(self.resolution, STRIDE)
        expect_heads(self.width, 2 ** ATTENDING[0])

    def begin(self, run: Run) -> Any:
        """The encoder with its weights, which all resolutions share."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: FastVLM
    run: Run

    def encode(self, at: Encoder) -> Patches:
        """The patches (F, N, D_v) of the expanded map."""
        width, depths = self.setting.width, self.setting.depths

        def build() -> tuple[nn.Module, int]:
            return FastViTHD(width, depths, folded=True), EXPANSION * width * 2 ** (STAGES - 1)

        return encoded_by(at, self.run, (FastVLM, width, depths), build, self.setting.resolution)
