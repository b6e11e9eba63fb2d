"""ConvLLaVA's five-stage ConvNeXt."""

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.flops import count_flop
from lvlm_atlas.reference.techniques.encoding.convllava import Block, ConvLLaVA, ConvNeXt


def network(width: int, depths: tuple[int, ...], device: str) -> ConvNeXt:
    """One with random weights."""
    return drawn(lambda: ConvNeXt(width, depths), device=device)


@pytest.mark.parametrize("depths", [(1, 1, 1, 1, 1), (0, 0, 0, 0, 0), (2, 0, 1, 0, 0)])
@pytest.mark.parametrize("resolution", [64, 128, 192])
def test_a_token_covers_64_pixels_along_a_side_whatever_the_depths(
    depths: tuple[int, ...], resolution: int, device: str
) -> None:
    out = network(3, depths, device)(torch.randn(2, 3, resolution, resolution, device=device))
    assert out.shape == (2, 48, resolution // 64, resolution // 64)


def test_a_place_that_is_scaled_as_a_whole_leaves_the_mlp_as_it_was(device: str) -> None:
    """Over channels the norm undoes it; over places it would not, for only one place is scaled."""
    block = drawn(lambda: Block(5), device=device)
    kernel = torch.zeros_like(block.dwconv.weight)
    kernel[:, :, 3, 3] = 1  # a place sees itself alone
    block.dwconv.weight.data = kernel
    x = torch.randn(1, 5, 4, 4, device=device)
    scaled = x.clone()
    scaled[:, :, 1, 2] *= 3
    torch.testing.assert_close(block(scaled) - scaled, block(x) - x, atol=1e-4, rtol=1e-4)


def test_the_wide_convolution_keeps_channels_apart(device: str) -> None:
    block = drawn(lambda: Block(4), device=device)
    assert block.dwconv.weight.shape == (4, 1, 7, 7)
    x = torch.randn(1, 4, 8, 8, device=device)
    changed = x.clone()
    changed[:, 2] += 1
    moved = (block.dwconv(x) != block.dwconv(changed)).any(-1).any(-1)
    assert moved.tolist() == [[False, False, True, False]]


def test_a_block_without_scale_changes_nothing(device: str) -> None:
    block = drawn(lambda: Block(4), device=device)
    block.layer_scale_parameter.data.zero_()
    x = torch.randn(1, 4, 5, 3, device=device)
    assert torch.equal(block(x), x)


def test_no_norm_follows_the_last_stage(device: str) -> None:
    """What the last convolution gives comes out: it scales with that convolution's weights."""
    net = network(2, (0, 0, 0, 0, 0), device)
    x = torch.randn(1, 3, 64, 64, device=device)
    before = net(x)
    net.stages[-1][-1].weight.data *= 2
    torch.testing.assert_close(net(x), 2 * before)


def test_work_grows_with_the_pixels_alone(device: str) -> None:
    net = network(3, (1, 1, 1, 1, 1), device)
    small, large = (count_flop(lambda s=side: net(torch.randn(1, 3, s, s, device=device)))[1] for side in (64, 128))
    assert large == 4 * small


@pytest.mark.parametrize("setting", [ConvLLaVA(128, 4, (1, 1, 1, 1, 1)), ConvLLaVA(64, 3, (0, 2, 1, 0, 3))])
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(device: str, setting: ConvLLaVA) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [setting]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    side = setting.resolution // 64
    assert one.trace.llm_vision_tokens == [6 * side**2] * 4
    work, places, channels = 48 * (setting.resolution // 4) ** 2 * setting.width, setting.resolution // 4, setting.width
    for stage, depth in enumerate(setting.depths):
        if stage:
            places, channels = places // 2, 2 * channels
            work += places**2 * 4 * (channels // 2) * channels
        work += depth * places**2 * (49 * channels + 2 * 4 * channels**2)
    work += side**2 * channels * 32
    assert one.trace.encoder_flop == 6 * 2 * work


def test_more_patches_than_the_models_own_leave_tiles_without_newlines(device: str) -> None:
    lvlm = LVLM.random("tiny-tiles", device=device)
    request = random_request(lvlm.config, frames=1)
    plain = lvlm.run(request).trace
    trace = lvlm.run(request, [ConvLLaVA(320, 2, (0, 0, 0, 0, 0))]).trace
    views = plain.llm_vision_tokens[0] // 16
    assert trace.encoder_tokens == [25]  # of 16
    assert trace.llm_vision_tokens[0] % 25 == 0
    assert trace.llm_vision_tokens[0] // 25 >= views


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resolution": 96}, "resolution must be a multiple of 64, the side of a patch in pixels, got 96"),
        ({"resolution": 0}, "resolution must be at least 64, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depths": (3, 3, 27, 3)}, "depths must be 5 numbers of at least 0"),
        ({"depths": (3, 3, 27, 3, -1)}, "depths must be 5 numbers of at least 0"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ConvLLaVA(**wrong)
