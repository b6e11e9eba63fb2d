"""FastViT."""

import pytest
import torch
from tests.trained import trained
from torch import nn
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.modules.reparameterised import Branched, fold_norm, folded, identity_kernel
from lvlm_atlas.reference.techniques.encoding.fastvit import (
    Attention,
    AttentionBlock,
    FastViT,
    Network,
    PositionConv,
    RepMixer,
    down,
)


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("attending", [(), (3,)])
@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("side", [32, 64, 70])
def test_the_folded_network_gives_what_the_trained_one_does(
    attending: tuple[int, ...],
    small: bool,
    side: int,
    device: str,
) -> None:
    network = trained(lambda: Network(4, (1, 1, 2, 1), 2, attending, folded=False, small=small), device)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, device=device)
    one = folded(network)
    same(one(x), network(x))
    assert not any(isinstance(module, Branched | RepMixer | PositionConv) for module in one.modules())
    assert one.state_dict().keys() == Network(4, (1, 1, 2, 1), 2, attending, folded=True).state_dict().keys()


def test_the_mixer_folds_into_one_convolution_with_its_skip(device: str) -> None:
    mixer = trained(lambda: RepMixer(5), device)
    one, x = mixer.fold(), torch.randn(2, 5, 6, 4, dtype=torch.float64, device=device)
    same(one(x), mixer(x))
    assert sum(weight.numel() for weight in one.parameters()) == 5 * 9 + 5
    mixed, normed = (functional.conv2d(x, *each.kernel(), padding=1, groups=5) for each in (mixer.mix, mixer.norm))
    same(one(x) - x, mixer.layer_scale * (mixed - normed))


def test_a_mixer_of_scale_zero_changes_nothing(device: str) -> None:
    mixer = trained(lambda: RepMixer(3), device)
    mixer.layer_scale.data.zero_()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, device=device)
    assert torch.equal(mixer(x), x)
    assert torch.equal(mixer.fold()(x), x)


def test_folding_takes_the_running_statistics(device: str) -> None:
    """Trained on other statistics than those of the batch at hand, the norm goes by its own."""
    mixer = trained(lambda: RepMixer(2), device)
    norm, x = mixer.norm.skip_norm, torch.randn(3, 2, 4, 4, dtype=torch.float64, device=device) * 5 + 2
    kernel, bias = fold_norm(identity_kernel(2, 2, 3).to(x), norm)
    own = functional.conv2d(x, kernel, bias, padding=1, groups=2)
    same(own, functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    batch = functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
    assert (own - batch).abs().max() > 1


def test_the_identity_reads_its_own_channel_of_the_group() -> None:
    assert identity_kernel(4, 2, 1).flatten().tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    assert identity_kernel(4, 4, 1).flatten().tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [(7, 3), (7, 1), (7, 7)])
def test_every_branch_folds_into_the_same_convolution(size: tuple[int, int], device: str) -> None:
    module = trained(lambda: Branched(3, 6, 7, 2, 3, kernels=size), device)
    x = torch.randn(1, 3, 9, 8, dtype=torch.float64, device=device)
    same(module.fold()(x), module(x))


def test_what_halves_the_map_is_linear_up_to_its_one_activation(device: str) -> None:
    module = trained(lambda: down(2, folded=False), device)
    wide, narrow, act = module
    assert isinstance(act, nn.GELU)
    x, y = torch.randn(2, 1, 2, 8, 8, dtype=torch.float64, device=device)
    linear = nn.Sequential(wide, narrow)
    zero = linear(torch.zeros_like(x))
    same(linear(x + y) - zero, (linear(x) - zero) + (linear(y) - zero))
    same(module(x), functional.gelu(linear(x)))
    assert module(x).shape == (1, 4, 4, 4)


def test_positions_fold_into_their_convolution(device: str) -> None:
    module = trained(lambda: PositionConv(3), device)
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64, device=device)
    same(module.fold()(x), x + module.conv(x))
    network = Network(4, (1, 1, 1, 1), 2, (3,), folded=False)
    kinds = [type(part) for part in network.parts]
    assert kinds.count(PositionConv) == 1
    assert kinds[kinds.index(PositionConv) + 1] is AttentionBlock


def test_attention_is_softmax_between_all_places_in_heads_of_32(device: str) -> None:
    module = trained(lambda: Attention(64), device)
    x = torch.randn(2, 64, 3, 2, dtype=torch.float64, device=device)
    token = x.flatten(2).mT
    query, key, value = module.qkv(token).split(64, dim=-1)
    outs = []
    for head in (slice(0, 32), slice(32, 64)):
        weight = (query[..., head] @ key[..., head].mT / 32**0.5).softmax(-1)
        outs.append(weight @ value[..., head])
    same(module(x), module.proj(torch.cat(outs, -1)).mT.reshape(x.shape))


@pytest.mark.parametrize(
    "setting", [FastViT(64, 8, (1, 1, 1, 1), 2, attention=True), FastViT(96, 6, (1, 0, 2, 1), 3, attention=False)]
)
def test_the_llm_starts_from_so_many_tokens_a_frame_and_the_work_is_counted(device: str, setting: FastViT) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    one, again = (lvlm.run(request, [setting]) for _ in range(2))
    assert torch.equal(one.logits_NC, again.logits_NC)
    side = setting.resolution // 32
    assert one.trace.llm_vision_tokens == [6 * side**2] * 4
    width, places = setting.width, (setting.resolution // 4) ** 2
    work = 4 * places * 27 * width + places * (9 * width + width**2)
    for stage, depth in enumerate(setting.depths):
        if stage:
            places, width = places // 4, 2 * width
            work += places * (49 * width + width**2)
        mlp = 49 * width + 2 * setting.mlp_ratio * width**2
        if stage == 3 and setting.attention:
            work += 49 * places * width + depth * (places * (mlp + 4 * width**2) + 2 * places**2 * width)
        else:
            work += depth * places * (9 * width + mlp)
    assert one.trace.encoder_flop == 6 * 2 * (work + places * width * 32)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resolution": 48}, "resolution must be a multiple of 32, the side of a patch in pixels, got 48"),
        ({"resolution": 16}, "resolution must be at least 32, got 16"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"mlp_ratio": 0}, "mlp_ratio must be at least 1, got 0"),
        ({"depths": (2, 2, 4)}, "depths must be 4 numbers of at least 0"),
        ({"width": 6, "attention": True}, "width must be a multiple of 4, so that heads of 32 fit, got 6"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FastViT(**wrong)
