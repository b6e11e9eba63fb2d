"""EfficientViT: stages of inverted bottlenecks, the last two with attention that is linear in the number of places.

Paper: cai2023efficientvit; code: mit-han-lab/efficientvit, efficientvit/models/efficientvit/backbone.py
(`EfficientViTBackbone`, the B series) and efficientvit/models/nn/ops.py (`LiteMLA`, `MBConv`, `DSConv`).

Symbols: R → resolution, channels of the stem → width, blocks of stem and stages → depths, d → head_width, the side s of
the kernel that aggregates neighbours → scale.

Departs:
1. Each stage is twice as wide as the one before, as in B0 to B3; MLPs are four times as wide inside, as there.
2. One scale besides the tokens themselves, as in all released networks.
3. Frames come in the size of the model's own tower and are resized from it.
4. The features are the map of the last stage, and a linear layer leads to the width of the model's encoder, whose
   adapter follows; the authors put classifiers, or decoders of masks that read several stages, behind it.
5. Attention sums in float32 whatever the type of the weights; the authors' quadratic form only divides in it.
6. The weights are random unless trained ones are given.

F frames, H rows and W columns of pixels or of a map, h and w those of the last map, N = H W places, C channels, A heads
of all scales, d head dimension, e = d + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import Encoder
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.backbone import encoded_by, expect_multiple
from lvlm_atlas.reference.refusal import Refusal

STAGES = 5
STRIDE = 2**STAGES
"""Pixels along a side of what becomes one patch."""
ATTENDING = (3, 4)
"""Stages, the stem being the first, whose blocks attend: at strides of 16 and 32 pixels."""
RATIO = 4
_EPS = 1e-15


def linear_attention(query_FAdN: Tensor, key_FAdN: Tensor, value_FAdN: Tensor) -> Tensor:
    """Attention with the kernel relu(q) · relu(k): (F, A, d, N) → (F, A, d, N), float32.

    Σₙ vₙ (kₙ · q) / Σₙ kₙ · q, which is 0 where no key has anything in common with the query. Values and a row of ones
    meet the keys first, (d + 1) × d numbers for all queries, so that work grows with N; where N ≤ d, keys and queries
    do.
    """
    query_FAdN, key_FAdN, value_FAdN = query_FAdN.relu().float(), key_FAdN.relu().float(), value_FAdN.float()
    if key_FAdN.shape[-1] <= key_FAdN.shape[-2]:
        weight_FANN = key_FAdN.mT @ query_FAdN  # a column a query
        return value_FAdN @ (weight_FANN / (weight_FANN.sum(2, keepdim=True) + _EPS))
    value_FAeN = functional.pad(value_FAdN, (0, 0, 0, 1), value=1.0)
    out_FAeN = (value_FAeN @ key_FAdN.mT) @ query_FAdN
    return out_FAeN[:, :, :-1] / (out_FAeN[:, :, -1:] + _EPS)


class MultiScaleAttention(nn.Module):
    """Linear attention between all places, and once more between what convolutions make of queries, keys and values.

    The channels of a head's query, key and value lie together, head after head.
    """

    def __init__(self, channels: int, head_width: int, scale: int) -> None:
        super().__init__()
        self.head_width, wide = head_width, 3 * channels
        self.qkv = nn.Conv2d(channels, wide, 1, bias=False)
        self.nearby = nn.Conv2d(wide, wide, scale, padding=scale // 2, groups=wide, bias=False)
        self.mix = nn.Conv2d(wide, wide, 1, groups=wide // head_width, bias=False)
        self.proj = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        qkv = self.qkv(x_FCHW)
        both = torch.cat([qkv, self.mix(self.nearby(qkv))], dim=1)
        heads_FA3dN = both.flatten(2).unflatten(1, (-1, 3, self.head_width))
        out_FAdN = linear_attention(*heads_FA3dN.unbind(2))
        out_FCHW: Tensor = self.norm(self.proj(out_FAdN.to(x_FCHW.dtype).reshape(len(x_FCHW), -1, *x_FCHW.shape[2:])))
        return out_FCHW


class Bottleneck(nn.Module):
    """1 × 1 to four times the channels, 3 × 3 in each alone, 1 × 1 to those that leave; hard swish between.

    Args:
        channels: those that enter.
        out: those that leave.
        stride: of the 3 × 3 convolution.
        few_norms: whether a batch norm follows the last convolution alone, and the others have biases instead.
    """

    def __init__(self, channels: int, out: int, stride: int = 1, *, few_norms: bool) -> None:
        super().__init__()
        inside = RATIO * channels

        def between() -> nn.Module:
            return nn.Identity() if few_norms else nn.BatchNorm2d(inside)

        self.conv1, self.norm1 = nn.Conv2d(channels, inside, 1, bias=few_norms), between()
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=few_norms)
        self.norm2 = between()
        self.conv3, self.norm3 = nn.Conv2d(inside, out, 1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """(F, C, H, W) → (F, out, …)."""
        y = functional.hardswish(self.norm1(self.conv1(x)))
        out: Tensor = self.norm3(self.conv3(functional.hardswish(self.norm2(self.conv2(y)))))
        return out


class Separable(nn.Module):
    """3 × 3 in each channel alone with hard swish, then 1 × 1; a batch norm after each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        out_FCHW: Tensor = self.norm2(self.conv2(functional.hardswish(self.norm1(self.conv1(x_FCHW)))))
        return out_FCHW


class Residual(nn.Module):
    """Adds what a module makes of its input to the input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        out: Tensor = x + self.inner(x)
        return out


class EfficientViTNet(nn.Module):
    """The network: (F, 3, R, R) → (F, 16 · width, R / 32, R / 32)."""

    def __init__(self, width: int, depths: tuple[int, ...], head_width: int, scale: int) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish()]
        parts += [Residual(Separable(width)) for _ in range(depths[0])]
        for stage, depth in enumerate(depths[1:], 1):
            channels, attends = width * 2**stage, stage in ATTENDING
            parts.append(Bottleneck(channels // 2, channels, 2, few_norms=attends))
            for _ in range(depth if attends else depth - 1):
                parts += [Residual(MultiScaleAttention(channels, head_width, scale))] if attends else []
                parts.append(Residual(Bottleneck(channels, channels, few_norms=attends)))
        self.parts = nn.Sequential(*parts)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """(F, 3, H, W) → (F, C, h, w)."""
        out_FChw: Tensor = self.parts(frames_F3HW)
        return out_FChw


@dataclass(frozen=True)
class EfficientViT(Technique):
    """At `encoder`: (resolution / 32)² patches of each frame.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `resolution` is no multiple of 32, heads do not divide the channels, or `scale` is even.
    """

    resolution: int = 224
    width: int = 16
    depths: tuple[int, ...] = (1, 2, 3, 3, 4)
    head_width: int = 16
    scale: int = 5

    acts_at: ClassVar = ("encoder",)
    needs: ClassVar = ("free-patches", "training-data")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "width", "head_width", "scale")
        if len(self.depths) != STAGES or min(self.depths) < 1:
            raise ValueError(f"depths must be {STAGES} numbers of at least 1, got {self.depths}")
        expect_multiple(self.resolution, STRIDE)
        channels = self.width * 2 ** ATTENDING[0]
        if channels % self.head_width:
            raise Refusal(f"head_width must divide {channels}, the channels that attend first, got {self.head_width}")
        if self.scale % 2 == 0:
            raise Refusal(f"scale must be odd, so that the map keeps its size, got {self.scale}")

    def begin(self, run: Run) -> Any:
        """The encoder with its weights, which all resolutions share."""
        return _Acting(self, run)


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: EfficientViT
    run: Run

    def encode(self, at: Encoder) -> Patches:
        """The patches (F, N, D_v) of the last stage."""
        chosen = self.setting
        shape = (chosen.width, chosen.depths, chosen.head_width, chosen.scale)

        def build() -> tuple[nn.Module, int]:
            return EfficientViTNet(*shape), chosen.width * 2 ** (STAGES - 1)

        return encoded_by(at, self.run, (EfficientViT, *shape), build, chosen.resolution)
