"""FastVLM's encoder FastViTHD."""

import pytest
import torch
from tests.trained import trained
from torch import nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.modules.backbone import ChannelNorm
from lvlm_atlas.reference.modules.reparameterised import Branched, folded
from lvlm_atlas.reference.techniques.encoding.fastvit import Attention, AttentionBlock, PositionConv
from lvlm_atlas.reference.techniques.encoding.fastvlm import Expansion, FastViTHD, FastVLM


def network(depths: tuple[int, ...], device: str) -> FastViTHD:
    """A trained one of width 4, not folded."""
    return trained(lambda: FastViTHD(4, depths, folded=False), device)


def frames(side: int, device: str) -> torch.Tensor:
    return torch.randn(1, 3, side, side, dtype=torch.float64, device=device)


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("depths", [(1, 1, 1, 1, 1), (0, 2, 1, 2, 0)])
@pytest.mark.parametrize("side", [64, 100])
def test_the_folded_network_gives_what_the_trained_one_does(depths: tuple[int, ...], side: int, device: str) -> None:
    whole, x = network(depths, device), frames(side, device)
    one = folded(whole)
    same(one(x), whole(x))
    assert not any(isinstance(module, Branched | PositionConv) for module in one.modules())
    assert one.state_dict().keys() == FastViTHD(4, depths, folded=True).state_dict().keys()


@pytest.mark.parametrize("side", [64, 128, 192])
def test_tokens_are_the_expanded_map(side: int, device: str) -> None:
    out = network((1, 0, 1, 0, 1), device)(frames(side, device))
    assert out.shape == (1, 2 * 4 * 16, side // 64, side // 64)


def test_the_published_network_has_its_number_of_weights() -> None:
    """122,714,208: those of the authors' module without its classifier."""
    with torch.device("meta"):
        whole = FastViTHD(96, (2, 12, 24, 4, 2), folded=True)
    assert sum(weight.numel() for weight in whole.parameters()) == 122_714_208


def test_a_gelu_follows_the_convolution_that_halves_the_map(device: str) -> None:
    halving = [part for part in network((0, 0, 0, 0, 0), device).stages.parts if isinstance(part, nn.Sequential)]
    assert len(halving) == 4
    first, _, second, _ = halving[0]
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64, device=device)
    same(halving[0](x), functional.gelu(second(functional.gelu(first(x)))))


def test_a_norm_over_the_channels_stands_before_attention(device: str) -> None:
    blocks = [module for module in network((0, 0, 0, 1, 1), device).modules() if isinstance(module, AttentionBlock)]
    assert [type(block.norm) for block in blocks] == [ChannelNorm, ChannelNorm]
    x = torch.randn(1, 32, 2, 3, dtype=torch.float64, device=device) * 4 + 1
    same(blocks[0].norm(x).mean(1), torch.zeros_like(x[:, 0]))


def test_two_stages_attend_at_strides_of_32_and_64(device: str) -> None:
    whole, seen = network((1, 1, 1, 2, 1), device), []
    for module in whole.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[1:])))
    whole(frames(128, device))
    assert seen == [(32, 4, 4), (32, 4, 4), (64, 2, 2)]
    kinds = [type(part) for part in whole.stages.parts]
    assert kinds.count(PositionConv) == 2


def test_channels_are_gated_by_the_mean_of_the_expanded_map(device: str) -> None:
    module = trained(lambda: Expansion(16, folded=False), device)
    assert module.squeeze.weight.shape == (2, 32, 1, 1)
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64, device=device)
    y = module.conv(x)
    mean = y.flatten(2).mean(-1)
    inside = functional.relu(mean @ module.squeeze.weight[:, :, 0, 0].mT + module.squeeze.bias)
    gate = torch.sigmoid(inside @ module.excite.weight[:, :, 0, 0].mT + module.excite.bias)
    same(module(x), functional.gelu(y * gate[:, :, None, None]))


@pytest.mark.parametrize("setting", [FastVLM(128, 4, (1, 1, 1, 1, 1)), FastVLM(64, 8, (1, 0, 2, 2, 1))])
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(device: str, setting: FastVLM) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [setting]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    side = setting.resolution // 64
    assert one.trace.llm_vision_tokens == [6 * side**2] * 4
    width, places = setting.width, (setting.resolution // 4) ** 2
    work = 4 * places * 27 * width + places * (9 * width + width**2)
    for stage, depth in enumerate(setting.depths):
        if stage:
            places, width = places // 4, 2 * width
            work += places * (49 * width + width**2)
        mlp = 49 * width + 8 * width**2
        if stage >= 3:
            work += 49 * places * width + depth * (places * (mlp + 4 * width**2) + 2 * places**2 * width)
        else:
            work += depth * places * (9 * width + mlp)
    work += places * 9 * 2 * width + 2 * (2 * width) * (width // 8) + places * 2 * width * 32
    assert one.trace.encoder_flop == 6 * 2 * work


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resolution": 96}, "resolution must be a multiple of 64, the side of a patch in pixels, got 96"),
        ({"resolution": 32}, "resolution must be at least 64, got 32"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"width": 6}, "width must be a multiple of 4, so that heads of 32 fit, got 6"),
        ({"depths": (2, 12, 24, 4)}, "depths must be 5 numbers of at least 0"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FastVLM(**wrong)
