"""The gated delta rule."""

from __future__ import annotations

import torch

from lvlm_atlas.reference.ops.delta import causal_convolution, gated_delta, unit


def test_a_key_that_comes_again_is_given_its_new_value(device: str) -> None:
    key = torch.tensor([[1.0, 0], [0, 1], [1, 0]], device=device)[None, None]
    value = torch.tensor([[2.0], [3.0], [5.0]], device=device)[None, None]
    gate, rate = torch.zeros(1, 1, 3, device=device), torch.ones(1, 1, 3, device=device)
    read, state = gated_delta(key, key, value, gate, rate, torch.zeros(1, 1, 2, 1, device=device))
    assert read.flatten().tolist() == [2, 3, 5]
    assert state.flatten().tolist() == [5, 3]


def test_a_gate_far_below_zero_clears_the_state_and_overflows_nowhere(device: str) -> None:
    key = unit(torch.randn(1, 1, 40, 4, device=device))
    gate = torch.full((1, 1, 40), -100.0, device=device)
    read, state = gated_delta(
        key, key, key, gate, torch.ones(1, 1, 40, device=device), torch.full((1, 1, 4, 4), 1e6, device=device)
    )
    torch.testing.assert_close(read, key, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state[0, 0], torch.outer(key[0, 0, -1], key[0, 0, -1]), atol=1e-4, rtol=1e-4)


def test_a_convolution_sees_the_tokens_before(device: str) -> None:
    x, before = torch.tensor([[[1.0], [2.0], [4.0]]], device=device), torch.tensor([[[10.0], [20.0]]], device=device)
    kernel = torch.tensor([[1.0, 0.5, 0.25]], device=device)
    want = torch.tensor([10 + 10 + 0.25, 20 + 0.5 + 0.5, 1 + 1 + 1.0], device=device)
    torch.testing.assert_close(causal_convolution(x, before, kernel).flatten(), torch.nn.functional.silu(want))
