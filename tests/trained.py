"""Modules as they are after training, where random weights alone would leave batch norms that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from lvlm_atlas.reference.modules.kept import drawn

Module = TypeVar("Module", bound=nn.Module)


def trained(build: Callable[[], Module], device: str) -> Module:
    """A module with random weights, and with random weights and statistics in its batch norms, variances positive.

    In double precision: what is equal by algebra then differs by next to nothing.
    """
    module = drawn(build, device=device)
    draw = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor, low in (
                (norm.weight, 0.5),
                (norm.bias, -0.5),
                (norm.running_mean, -0.5),
                (norm.running_var, 0.5),
            ):
                tensor.data = (torch.rand(tensor.shape, generator=draw) + low).to(device)
    return module.double()
