"""Honeybee's C-Abstractor."""

import pytest
import torch
from torch import nn

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.modules.backbone import ChannelNorm
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.techniques.encoding.honeybee import Bottleneck, CAbstractor, Honeybee
from lvlm_atlas.reference.techniques.encoding.visionzip import VisionZip


def abstractor(queries: int, device: str, patches: int = 36, depth: int = 1) -> CAbstractor:
    """One with random weights, of width 8."""
    return drawn(lambda: CAbstractor(patches, 8, 12, queries=queries, depth=depth, width=8, mlp_depth=2), device=device)


def test_the_wide_convolution_has_one_kernel_a_channel(device: str) -> None:
    block = Bottleneck(8, 8)
    assert block.conv2.weight.shape == (8, 1, 3, 3)
    assert block.conv1.bias is block.conv2.bias is block.conv3.bias is None
    assert block.squeeze.bias is not None


def test_squeezing_goes_to_a_quarter_of_the_channels_that_enter() -> None:
    assert Bottleneck(8, 16).squeeze.weight.shape == (2, 16, 1, 1)
    assert isinstance(Bottleneck(8, 8).shortcut, nn.Identity)
    assert Bottleneck(8, 16).shortcut.weight.shape == (16, 8, 1, 1)


def test_the_norm_is_taken_over_the_channels_of_each_place(device: str) -> None:
    x = torch.randn(2, 6, 3, 4, device=device) * 5 + 3
    y = ChannelNorm(6).to(device)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4, device=device), atol=1e-5, rtol=0)
    torch.testing.assert_close(y[0, :, 1, 2], nn.LayerNorm(6).to(device)(x[0, :, 1, 2]))


def test_windows_of_the_pool_overlap_where_the_sides_do_not_divide(device: str) -> None:
    # Without blocks or readout: a 5 × 5 grid to 2 × 2, of which each window spans three rows and columns.
    module = abstractor(4, device, patches=25)
    module.before, module.after, module.readout = nn.Sequential(), nn.Sequential(), nn.ModuleList()
    module.position_embed.data.zero_()
    grid = torch.randn(1, 5, 5, 8, device=device)
    out = module(grid.flatten(1, 2))
    for token, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        torch.testing.assert_close(out[0, token], grid[0, row : row + 3, column : column + 3].mean((0, 1)))


@pytest.mark.parametrize("queries", [1, 9, 36, 49])
def test_any_square_number_of_tokens_comes_out(device: str, queries: int) -> None:
    out = abstractor(queries, device)(torch.randn(3, 36, 8, device=device))
    assert out.shape == (3, queries, 12)


def test_a_patch_informs_tokens_far_away_only_through_what_is_squeezed(device: str) -> None:
    module = abstractor(36, device)
    for part in (module.before[0], module.after[0]):
        part.excite.weight.data.zero_()  # no gate depends on the image any more
    x = torch.randn(1, 36, 8, device=device)
    changed = x.clone()
    changed[0, 0] += 1
    far = (module(x) != module(changed)).any(-1).reshape(6, 6)
    assert far[:3, :3].all()  # two 3 × 3 convolutions reach two cells
    assert not far[3:].any()
    assert not far[:, 3:].any()


@pytest.mark.parametrize("setting", [Honeybee(16, 2, 32), Honeybee(9, 1, 24, 1)], ids=["like the encoder", "narrower"])
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(device: str, setting: Honeybee) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [setting]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    assert one.trace.llm_vision_tokens == [6 * setting.queries] * 4

    def block(places: int, channels: int, width: int) -> int:
        shortcut = 0 if channels == width else channels * width
        return places * (channels * width + 9 * width + width**2 + shortcut) + 2 * width * (channels // 4)

    w, m = setting.width, setting.queries
    work = block(64, 32, w) + (setting.depth - 1) * block(64, w, w) + setting.depth * block(m, w, w)
    work += m * (w * 64 + (setting.mlp_depth - 1) * 64 * 64)
    assert one.trace.adapter_flop == 6 * 2 * work


def test_what_is_no_whole_square_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="needs `whole-grid`, which nobody finds behind VisionZip"):
        lvlm.run(random_request(lvlm.config), [VisionZip(54, 10), Honeybee(16, 1, 32)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"queries": 145}, "queries must be a square number, got 145"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": 6}, "width must be a multiple of 4, got 6"),
        ({"mlp_depth": 0}, "mlp_depth must be at least 1, got 0"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Honeybee(**wrong)
