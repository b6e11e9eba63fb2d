"""FastViT: four stages whose mixers, norms and skips fold into one convolution each before the network is used.

Paper: vasu2023fastvit; code: apple/ml-fastvit, models/fastvit.py and models/modules.

Symbols: R → resolution, channels of the first stage → width, blocks of each stage → depths, expansion → mlp_ratio.
T8 and T12 have no attention and `mlp_ratio` 3, S12 none and 4; SA12, SA24, SA36 and MA36 attend in the last stage.

Departs:
1. Each stage is twice as wide as the one before, as in all released variants.
2. Frames come in the size of the model's own tower and are resized from it.
3. The features are the map of the last stage, as for detection and segmentation, but without the batch norm that the
   authors add to each map there, which folds into what follows. The classifier with the convolution before it is left
   out, and a linear layer leads to the width of the model's encoder, whose adapter follows.
4. The run uses the folded network; `Network(folded=False)` is the one that is trained, and `folded` of it is equal.
5. The weights are random unless trained ones are given.

F frames, H rows and W columns of a map, N = H W places, C channels, A heads, d head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lvlm_atlas.reference.flow.states import Patches
from lvlm_atlas.reference.lvlm.contexts import Encoder
from lvlm_atlas.reference.lvlm.technique import Run, Technique
from lvlm_atlas.reference.modules.backbone import encoded_by, expect_multiple
from lvlm_atlas.reference.modules.reparameterised import Branched, convolution, identity_kernel
from lvlm_atlas.reference.refusal import Refusal

STAGES = 4
STRIDE = 4 * 2 ** (STAGES - 1)
"""Pixels along a side of what becomes one patch."""
HEAD_WIDTH = 32


class RepMixer(nn.Module):
    """Mixes places without attention: x + g · (mix(x) − norm(x)), each channel on its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = Branched(channels, channels, 3, groups=channels, kernels=(3, 1), skip=True)
        self.norm = Branched(channels, channels, 3, groups=channels, kernels=(), skip=True)
        self.layer_scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        out_FCHW: Tensor = x_FCHW + self.layer_scale * (self.mix(x_FCHW) - self.norm(x_FCHW))
        return out_FCHW

    def fold(self) -> nn.Conv2d:
        """One 3 × 3 convolution in each channel alone, the skip in it: I + g (W − W'), g (b − b')."""
        (mix_C1kk, mix_C), (norm_C1kk, norm_C) = self.mix.kernel(), self.norm.kernel()
        channels, _, size, _ = mix_C1kk.shape
        identity_C1kk = identity_kernel(channels, channels, size).to(mix_C1kk)
        kernel_C1kk = identity_C1kk + self.layer_scale[..., None] * (mix_C1kk - norm_C1kk)
        return convolution(kernel_C1kk, self.layer_scale.flatten() * (mix_C - norm_C), groups=channels)


class PositionConv(nn.Module):
    """Positions from the neighbourhood: x plus a 7 × 7 convolution of it, each channel on its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        out_FCHW: Tensor = x_FCHW + self.conv(x_FCHW)
        return out_FCHW

    def fold(self) -> nn.Conv2d:
        """The convolution with the skip in its kernel."""
        kernel_C1kk, bias_C = self.conv.weight, self.conv.bias
        assert bias_C is not None  # noqa: S101 - it was made with one
        channels, _, size, _ = kernel_C1kk.shape
        identity_C1kk = identity_kernel(channels, channels, size).to(kernel_C1kk)
        return convolution(kernel_C1kk + identity_C1kk, bias_C, groups=channels)


class ConvMlp(nn.Module):
    """A 7 × 7 convolution in each channel alone and a batch norm, then two linear layers at each place."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.fc1 = nn.Conv2d(channels, ratio * channels, 1)
        self.fc2 = nn.Conv2d(ratio * channels, channels, 1)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        out_FCHW: Tensor = self.fc2(functional.gelu(self.fc1(self.norm(self.conv(x_FCHW)))))
        return out_FCHW


class Attention(nn.Module):
    """Softmax attention between all places of a map, heads of width 32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_WIDTH
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        x_FNC = x_FCHW.flatten(2).mT
        qkv_3FANd = self.qkv(x_FNC).unflatten(2, (3, self.heads, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        out_FANd = functional.scaled_dot_product_attention(*qkv_3FANd)
        out_FNC: Tensor = self.proj(out_FANd.transpose(1, 2).flatten(2))
        return out_FNC.mT.reshape(x_FCHW.shape)


class MixerBlock(nn.Module):
    """A RepMixer, or the one convolution that it folds into, then x + g · mlp(x)."""

    def __init__(self, channels: int, ratio: int, *, folded: bool) -> None:
        super().__init__()
        one = nn.Conv2d(channels, channels, 3, padding=1, groups=channels) if folded else None
        self.mixer = one or RepMixer(channels)
        self.mlp = ConvMlp(channels, ratio)
        self.layer_scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        x_FCHW = self.mixer(x_FCHW)
        out_FCHW: Tensor = x_FCHW + self.layer_scale * self.mlp(x_FCHW)
        return out_FCHW


class AttentionBlock(nn.Module):
    """x + g · attention(norm(x)), then x + g · mlp(x)."""

    def __init__(self, channels: int, ratio: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.attention = Attention(channels)
        self.mlp = ConvMlp(channels, ratio)
        self.layer_scale_1 = nn.Parameter(torch.ones(channels, 1, 1))
        self.layer_scale_2 = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x_FCHW: Tensor) -> Tensor:
        """(F, C, H, W) → (F, C, H, W)."""
        x_FCHW = x_FCHW + self.layer_scale_1 * self.attention(self.norm(x_FCHW))
        out_FCHW: Tensor = x_FCHW + self.layer_scale_2 * self.mlp(x_FCHW)
        return out_FCHW


def mobile_one(
    channels: int, out: int, size: int, stride: int = 1, groups: int = 1, *, folded: bool, small: bool = True
) -> nn.Module:
    """MobileOne's convolution: a 1 × 1 branch beside it if `small`, and a skip where nothing changes size."""
    if folded:
        return nn.Conv2d(channels, out, size, stride, size // 2, groups=groups)
    kernels = (size, 1) if small and size > 1 else (size,)
    return Branched(channels, out, size, stride, groups, kernels=kernels, skip=channels == out and stride == 1)


def down(channels: int, *, folded: bool, active: bool = False) -> nn.Sequential:
    """Halves the map and doubles its channels: 7 × 7 beside 3 × 3, with GELU if `active`, then 1 × 1 with GELU."""
    out = 2 * channels
    wide = nn.Conv2d(channels, out, 7, 2, 3, groups=channels) if folded else None
    first = wide or Branched(channels, out, 7, 2, channels, kernels=(7, 3))
    between = [nn.GELU()] if active else []
    return nn.Sequential(first, *between, mobile_one(out, out, 1, folded=folded), nn.GELU())


class Network(nn.Module):
    """Stem and stages: (F, 3, R, R) → (F, C, R / s, R / s), C and s doubled between stages, s = 4 in the first.

    Args:
        width: channels of the first stage.
        depths: blocks of each stage.
        ratio: expansion of the MLPs.
        attending: stages whose blocks attend, the positions in front of them.
        folded: whether branches are one convolution each.
        norm: the norm in front of attention.
        small: whether convolutions of the stem have the 1 × 1 branch.
        active: whether a GELU follows the convolutions that halve the map.
    """

    def __init__(
        self, width: int, depths: tuple[int, ...], ratio: int, attending: tuple[int, ...], *, folded: bool,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d, small: bool = True,
        active: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = nn.Sequential(
            *(mobile_one(3, width, 3, 2, folded=folded, small=small), nn.GELU()),
            *(mobile_one(width, width, 3, 2, width, folded=folded, small=small), nn.GELU()),
            *(mobile_one(width, width, 1, folded=folded), nn.GELU()),
        )
        parts: list[nn.Module] = []
        for stage, depth in enumerate(depths):
            channels = width * 2**stage
            if stage:
                parts.append(down(channels // 2, folded=folded, active=active))
            if stage in attending:
                one = nn.Conv2d(channels, channels, 7, padding=3, groups=channels) if folded else None
                parts += [one or PositionConv(channels)]
                parts += [AttentionBlock(channels, ratio, norm) for _ in range(depth)]
            else:
                parts += [MixerBlock(channels, ratio, folded=folded) for _ in range(depth)]
        self.parts = nn.Sequential(*parts)

    def forward(self, frames_F3HW: Tensor) -> Tensor:
        """(F, 3, H, W) → (F, C, h, w)."""
        out_FChw: Tensor = self.parts(self.stem(frames_F3HW))
        return out_FChw


@dataclass(frozen=True)
class FastViT(Technique):
    """At `encoder`: (resolution / 32)² patches of each frame.

    Raises:
        ValueError: a parameter lies outside its range.
        Refusal: `resolution` is no multiple of 32, or the last stage attends with a width that heads do not divide.
    """

    resolution: int = 256
    width: int = 48
    depths: tuple[int, ...] = (2, 2, 4, 2)
    mlp_ratio: int = 3
    attention: bool = False

    acts_at: ClassVar = ("encoder",)
    needs: ClassVar = ("free-patches", "training-data")

    def __post_init__(self) -> None:
        self.expect_at_least(1, "width", "mlp_ratio")
        if len(self.depths) != STAGES or min(self.depths) < 0:
            raise ValueError(f"depths must be {STAGES} numbers of at least 0, got {self.depths}")
        expect_multiple(self.resolution, STRIDE)
        if self.attention:
            expect_heads(self.width, 2 ** (STAGES - 1))

    def begin(self, run: Run) -> Any:
        """The encoder with its weights, which all resolutions share."""
        return _Acting(self, run)


def expect_heads(width: int, factor: int) -> None:
    """Check that heads divide the channels of the first stage that attends, `factor` · `width`.

    Raises:
        Refusal: they do not.
    """
    if width * factor % HEAD_WIDTH:
        unit = HEAD_WIDTH // factor
        raise Refusal(f"width must be a multiple of {unit}, so that heads of {HEAD_WIDTH} fit, got {width}")


@dataclass(frozen=True)
class _Acting:
    """The technique in a run."""

    setting: FastViT
    run: Run

    def encode(self, at: Encoder) -> Patches:
        """The patches (F, N, D_v) of the last stage."""
        chosen = self.setting
        attending = (STAGES - 1,) if chosen.attention else ()
        key = (FastViT, chosen.width, chosen.depths, chosen.mlp_ratio, attending)

        def build() -> tuple[nn.Module, int]:
            network = Network(chosen.width, chosen.depths, chosen.mlp_ratio, attending, folded=True)
            return network, chosen.width * 2 ** (STAGES - 1)

        return encoded_by(at, self.run, key, build, chosen.resolution)
