"""LLaVA-1.5's MLP."""

import pytest
import torch
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig
from lvlm_atlas.reference.lvlm.llava import Projector
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.encoding.llava_mlp import LlavaMlp, PatchMlp
from lvlm_atlas.reference.techniques.encoding.vispruner import VisPruner


def test_an_activation_stands_between_two_layers_alone(device: str) -> None:
    x = torch.randn(2, 5, 4, device=device)
    one = drawn(lambda: PatchMlp(4, 6, 1), device=device)
    torch.testing.assert_close(one(x), functional.linear(x, one.linears[0].weight, one.linears[0].bias))
    torch.testing.assert_close(one(2 * x), 2 * one(x))  # linear; biases are 0
    two = drawn(lambda: PatchMlp(4, 6, 2), device=device)
    inner = two.linears[0](x)
    torch.testing.assert_close(two(x), two.linears[1](inner * (1 + torch.erf(inner / 2**0.5)) / 2))


def test_the_activation_is_the_exact_gelu(device: str) -> None:
    module = drawn(lambda: PatchMlp(1, 1, 2), device=device)
    for linear in module.linears:
        linear.weight.data.fill_(1)
    x = torch.tensor([[[-1.0], [0.0], [2.0]]], device=device)
    torch.testing.assert_close(module(x).flatten().cpu(), torch.tensor([-0.15865525, 0.0, 1.95449974]))


def test_a_patch_is_mapped_alone(device: str) -> None:
    module, x = drawn(lambda: PatchMlp(4, 6, 3), device=device), torch.randn(1, 7, 4, device=device)
    order = torch.randperm(7, device=device)
    torch.testing.assert_close(module(x)[:, order], module(x[:, order]))


def test_with_the_weights_of_the_model_s_own_adapter_nothing_changes(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    own, mlp = lvlm.dialect.adapter, drawn(lambda: PatchMlp(32, 64, 2), device=device)
    assert isinstance(lvlm.config, LVLMConfig)
    assert isinstance(own, Projector)
    mlp.linears[0].load_state_dict(own.linear_1.state_dict())
    mlp.linears[1].load_state_dict(own.linear_2.state_dict())
    give(lvlm, LlavaMlp(), mlp)
    torch.testing.assert_close(lvlm.run(request, [LlavaMlp()]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_as_many_tokens_leave_as_patches_come(device: str, depth: int) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [LlavaMlp(depth)]).trace
    assert trace.llm_vision_tokens == [6 * 64] * 4
    assert trace.adapter_flop == 6 * 64 * 2 * (32 * 64 + (depth - 1) * 64 * 64)


def test_it_maps_those_that_are_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config), [VisPruner(20), LlavaMlp(1)]).trace
    assert trace.llm_vision_tokens == [6 * 20] * 4
    assert trace.adapter_flop == 6 * 20 * 2 * 32 * 64


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        LlavaMlp(0)
