"""Convolutions that are trained as several branches and run as one: every branch is linear, so their kernels add up.

Each branch ends in a batch norm, which uses its running statistics, as it does once training is over. Papers:
vasu2023fastvit; code: apple/ml-fastvit, models/modules/mobileone.py (`MobileOneBlock`) and replknet.py
(`ReparamLargeKernelConv`), which differ in their branches alone.

F frames, H rows and W columns of a map, C channels (O after the convolution, I in a group), k side of a kernel.
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)


@runtime_checkable
class Foldable(Protocol):
    """A module that another, equal to it, can take the place of."""

    def fold(self) -> nn.Module:
        """The other one; it shares no weights."""


def folded(network: Network) -> Network:
    """A copy of a network in which every module that can be folded is."""
    network = copy.deepcopy(network)
    for parent in [*network.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, Foldable):
                setattr(parent, name, child.fold())
    return network


def identity_kernel(channels: int, groups: int, size: int) -> Tensor:
    """The kernel (C, I, k, k) that changes nothing: of its group, each channel reads itself at the centre."""
    kernel_CIkk = torch.zeros(channels, channels // groups, size, size)
    channel_C = torch.arange(channels)
    kernel_CIkk[channel_C, channel_C % (channels // groups), size // 2, size // 2] = 1
    return kernel_CIkk


def fold_norm(kernel_OIkk: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias (O,) of a convolution without bias and the batch norm that follows it.

    With γ, β the norm's weight and bias, μ and σ² its running statistics: W γ / σ and β − μ γ / σ.
    """
    mean_O, variance_O = norm.running_mean, norm.running_var
    assert mean_O is not None  # noqa: S101 - they are kept unless one turns that off
    assert variance_O is not None  # noqa: S101
    scale_O = norm.weight / (variance_O + norm.eps).sqrt()
    return kernel_OIkk * scale_O[:, None, None, None], norm.bias - mean_O * scale_O


def placed(kernel_OIkk: Tensor, size: int) -> Tensor:
    """A kernel in the middle of one of a larger side, zeros around it."""
    return functional.pad(kernel_OIkk, [(size - kernel_OIkk.shape[-1]) // 2] * 4)


class Branch(nn.Module):
    """A convolution without bias, padded so that an odd kernel keeps the map's size, then a batch norm."""

    def __init__(self, channels: int, out: int, size: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """(F, C, H, W) → (F, O, …)."""
        out: Tensor = self.norm(self.conv(x))
        return out


class Branched(nn.Module):
    """The sum of a convolution for each kernel size, and with `skip` of a batch norm alone.

    Args:
        channels: those that enter.
        out: those that leave.
        size: side of the kernel of the convolution that it becomes.
        stride: its stride.
        groups: its groups.
        kernels: sides of the branches' kernels.
        skip: whether the input itself, behind a batch norm, is a branch.
    """

    def __init__(
        self, channels: int, out: int, size: int, stride: int = 1, groups: int = 1, *, kernels: tuple[int, ...],
        skip: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels, self.out, self.size, self.stride, self.groups = channels, out, size, stride, groups
        self.branches = nn.ModuleList(Branch(channels, out, each, stride, groups) for each in kernels)
        self.skip_norm = nn.BatchNorm2d(channels) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        """(F, C, H, W) → (F, O, …)."""
        outs = [branch(x) for branch in self.branches]
        if self.skip_norm is not None:
            outs.append(self.skip_norm(x))
        total: Tensor = sum(outs[1:], outs[0])
        return total

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Kernel (O, I, k, k) and bias (O,) of the one convolution that all branches together are."""
        parts = [fold_norm(placed(each.conv.weight, self.size), each.norm) for each in self.branches]  # type: ignore[union-attr,arg-type]
        if self.skip_norm is not None:
            identity = identity_kernel(self.channels, self.groups, self.size).to(self.skip_norm.weight)
            parts.append(fold_norm(identity, self.skip_norm))
        kernels, biases = zip(*parts, strict=True)
        return sum(kernels[1:], kernels[0]), sum(biases[1:], biases[0])

    def fold(self) -> nn.Conv2d:
        """That convolution."""
        return convolution(*self.kernel(), self.stride, self.groups)


def convolution(kernel_OIkk: Tensor, bias_O: Tensor, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution of this kernel and bias, padded so that an odd kernel keeps the map's size."""
    out, inside, size, _ = kernel_OIkk.shape
    conv = nn.Conv2d(inside * groups, out, size, stride, size // 2, groups=groups).to(kernel_OIkk)
    weights = (kernel_OIkk, bias_O)
    conv.weight, conv.bias = (nn.Parameter(each.detach().clone(), requires_grad=False) for each in weights)
    return conv
