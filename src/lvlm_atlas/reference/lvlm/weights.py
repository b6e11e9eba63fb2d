"""Random weights, made where they are needed."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

DRAWN_ON_DEVICE = 2**20
"""A tensor of at least so many numbers is drawn by the device itself."""


def fill(model: Model, *, seed: int, dtype: torch.dtype, device: torch.device | str) -> Model:
    """Give a model of the meta device random weights, one tensor after the other, and return it.

    Matrices are drawn from N(0, 1/fan_in), norms are 1 and biases 0, so that attention is far from uniform. Small
    tensors are drawn on the CPU in float32: a seed gives the same ones on every device. Large ones are drawn in place.
    """
    on_cpu = torch.Generator().manual_seed(seed)
    on_device = torch.Generator(device).manual_seed(seed)
    filled: dict[int, nn.Parameter] = {}  # shared tensors stay shared
    with torch.no_grad():
        for name, shape in model.named_parameters():
            weight = torch.empty_like(shape, dtype=dtype, device=device)
            large = weight.numel() >= DRAWN_ON_DEVICE
            draw(name, weight, on_device if large else on_cpu, in_place=large)
            filled[id(shape)] = nn.Parameter(weight, requires_grad=False)
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            setattr(module, name, filled[id(old)])
    return model


def draw(name: str, weight: Tensor, generator: torch.Generator, *, in_place: bool = False) -> None:
    """Fill a weight as its name tells: biases with 0, norms with 1, all else from N(0, 1/fan_in).

    Args:
        name: its name.
        weight: what is filled.
        generator: draws; of the CPU, or of the weight's device if `in_place`.
        in_place: whether the numbers are drawn where they stay, in their type; else in float32 on the CPU.
    """
    if name.endswith("bias"):
        weight.zero_()
    elif "norm" in name or "ln_q" in name:
        weight.fill_(1)
    else:
        std = 1.0 if "embed" in name and weight.dim() < 3 else weight[0].numel() ** -0.5
        if in_place:
            weight.normal_(std=std, generator=generator)
        else:
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter of that dotted name, in place of one of the meta device."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
