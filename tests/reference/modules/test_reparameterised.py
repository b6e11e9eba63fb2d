"""Branches that fold into one convolution."""

import pytest
import torch
from tests.trained import trained
from torch import nn
from torch.nn import functional

from lvlm_atlas.reference.modules.reparameterised import Branched, fold_norm, folded, identity_kernel, placed


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("stride", "groups", "kernels", "skip"),
    [(1, 1, (3, 1), True), (1, 4, (3, 1), True), (2, 4, (7, 3), False), (2, 1, (3,), False), (1, 2, (1,), True),
     (1, 4, (), True), (1, 2, (5, 5, 3, 1), True)],
)  # fmt: skip
@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_every_branch_folds_into_the_same_convolution(
    stride: int,
    groups: int,
    kernels: tuple[int, ...],
    skip: bool,
    side: int,
    device: str,
) -> None:
    size = max((*kernels, 3))
    module = trained(lambda: Branched(4, 4, size, stride, groups, kernels=kernels, skip=skip), device)
    one = folded(nn.Sequential(module))[0]
    assert isinstance(one, nn.Conv2d)
    assert one.kernel_size == (size, size)
    x = torch.randn(2, 4, side, side, dtype=torch.float64, device=device)
    same(one(x), module(x))


def test_the_identity_reads_its_own_channel_of_the_group(device: str) -> None:
    for groups in (1, 2, 3, 6):
        kernel = identity_kernel(6, groups, 3).to(device, torch.float64)
        assert kernel.shape == (6, 6 // groups, 3, 3)
        x = torch.randn(1, 6, 4, 5, dtype=torch.float64, device=device)
        same(functional.conv2d(x, kernel, padding=1, groups=groups), x)


def test_folding_takes_the_running_statistics() -> None:
    # By hand: γ 3, β 1, μ 2, σ² 4 on a kernel of 10: 10 · 3 / 2 and 1 − 2 · 3 / 2.
    norm = nn.BatchNorm2d(1, eps=0.0).train()
    for tensor, value in ((norm.weight, 3.0), (norm.bias, 1.0), (norm.running_mean, 2.0), (norm.running_var, 4.0)):
        tensor.data.fill_(value)
    kernel, bias = fold_norm(torch.full((1, 1, 1, 1), 10.0), norm)
    assert kernel.item() == 15
    assert bias.item() == -2


def test_a_small_kernel_stands_in_the_middle_of_the_large_one() -> None:
    kernel = placed(torch.arange(9.0).reshape(1, 1, 3, 3), 7)
    assert kernel[0, 0, 2:5, 2:5].flatten().tolist() == [*range(9)]
    assert kernel.sum() == 36


def test_what_is_folded_is_a_copy(device: str) -> None:
    module = trained(lambda: nn.Sequential(Branched(2, 2, 3, kernels=(3,), skip=True)), device)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, device=device)
    before = module(x)
    for weight in folded(module).parameters():
        weight.data.zero_()
    assert torch.equal(module(x), before)
