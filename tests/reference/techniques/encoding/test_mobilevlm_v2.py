"""MobileVLM V2's LDPv2."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.techniques.encoding.mobilevlm_v2 import Ldpv2, MobileVlmV2
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip


def projector(device: str, side: int = 2) -> Ldpv2:
    """From a width of 5 to one of 6."""
    return drawn(lambda: Ldpv2(5, 6, side), device=device)


def without_positions(module: Ldpv2) -> Ldpv2:
    module.positions.weight.data.zero_()
    return module


def mapped(module: Ldpv2, patch: Tensor) -> Tensor:
    return module.linear_2(functional.gelu(module.linear_1(patch)))  # type: ignore[no-any-return]


def test_the_mean_is_of_mapped_patches(device: str) -> None:
    module = without_positions(projector(device))
    grid = torch.randn(1, 4, 4, 5, device=device)
    out = module(grid.flatten(1, 2))
    for token, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        square = grid[0, row : row + 2, column : column + 2]
        torch.testing.assert_close(out[0, token], mapped(module, square).mean((0, 1)))
        assert not torch.allclose(out[0, token], mapped(module, square.mean((0, 1))))


def test_windows_overlap_where_the_sides_do_not_divide(device: str) -> None:
    module = without_positions(projector(device))
    grid = torch.randn(1, 5, 5, 5, device=device)
    torch.testing.assert_close(module(grid.flatten(1, 2))[0, 3], mapped(module, grid[0, 2:, 2:]).mean((0, 1)))


def test_the_convolution_is_added_and_has_a_bias(device: str) -> None:
    module, x = without_positions(projector(device)), torch.randn(2, 16, 5, device=device)
    pooled = module(x)
    assert module.positions.bias is not None
    module.positions.bias.data.copy_(torch.arange(6.0))
    torch.testing.assert_close(module(x), pooled + torch.arange(6.0, device=device))


def test_each_channel_has_a_kernel_of_its_own_on_the_pooled_grid(device: str) -> None:
    module = projector(device, 3)
    assert module.positions.weight.shape == (6, 1, 3, 3)
    x = torch.randn(1, 36, 5, device=device)
    weight = module.positions.weight.data.clone()
    out = module(x).mT.reshape(6, 3, 3)
    pooled = without_positions(module)(x).mT.reshape(6, 3, 3)
    padded = functional.pad(pooled, (1, 1, 1, 1))
    for row in range(3):
        for column in range(3):
            around = padded[:, row : row + 3, column : column + 3]
            torch.testing.assert_close(
                out[:, row, column], pooled[:, row, column] + (around * weight[:, 0]).sum((1, 2))
            )


@pytest.mark.parametrize("side", [1, 4, 8, 9])
def test_any_square_comes_out_and_the_work_is_counted(device: str, side: int) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [MobileVlmV2(side)]).trace
    assert trace.llm_vision_tokens == [6 * side**2] * 4
    assert trace.adapter_flop == 6 * 2 * (64 * 64 * (32 + 64) + 9 * 64 * side**2)


def test_what_is_no_whole_square_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(ValueError, match="needs `whole-grid`"):
        lvlm.run(random_request(lvlm.config), [VisionZip(54, 10), MobileVlmV2(4)])
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        MobileVlmV2(0)
