"""FastVLM (self-speculative): one cache, no layer twice, and the target's own answers whatever is imitated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.modules.kept import give
from lvlm_atlas.reference.ops.sampling import distribution
from lvlm_atlas.reference.techniques.decoding.fastvlm_self_speculative import (
    FastVlmSelfSpeculative,
    ImitationNetwork,
    imitation_loss,
)

MICRO = LVLMConfig(
    vision=VisionConfig(
        image_size=4, patch_size=2, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    ),
    text=TextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
    ),
    image_token_id=3,
)
"""Small enough to answer hundreds of requests in a test."""


class Constant(nn.Module):
    """Imitates nothing: the same state everywhere."""

    def forward(self, hidden_MD: Tensor) -> Tensor:
        return torch.ones_like(hidden_MD)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
@pytest.mark.parametrize("exit_layer", [1, 3])
def test_greedy_answers_are_the_targets_own(preset: str, exit_layer: int, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=11)
    plain, result = lvlm.run(request), lvlm.run(request, [FastVlmSelfSpeculative(exit_layer, 3)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-3, atol=1e-3)


def test_sampled_answers_are_distributed_as_the_targets() -> None:
    """Chi-square over many seeds: it fails if the draft draws with the verifier's numbers, or its q is not told."""
    torch.manual_seed(3)
    target, seeds = LVLM(MICRO).eval(), 400
    request = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=3, temperature=0.4)
    technique = FastVlmSelfSpeculative(1, 2)
    count, expected = torch.zeros(4, 4), torch.zeros(4, 4)
    for seed in range(seeds):
        tokens = target.run(replace(request, seed=seed), [technique]).tokens_N.tolist()
        count[tuple(tokens[:2])] += 1
    with torch.inference_mode():
        for first in range(4):
            prefill = target.prefill(target.prepare(target.begin(request)))
            logits_MC = target.step(torch.tensor([first]), prefill.cache)
            expected[first] = distribution(logits_MC[0], 0.4) * distribution(prefill.logits_C, 0.4)[first] * seeds
    likely = expected > 4
    statistic = float(((count - expected)[likely].square() / expected[likely]).sum())
    assert 3 < int(likely.sum()) <= 16
    assert statistic < 37, "the 0.2 % point of 16 degrees of freedom"


def test_the_targets_pass_runs_no_layer_again(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=12), [FastVlmSelfSpeculative(2, 3)]).trace
    rounds = trace.target_passes
    assert trace.draft_passes == 3 * rounds
    assert trace.draft_layer_runs == 2 * 3 * rounds
    assert trace.layer_runs == 4 * rounds
    assert trace.draft_lengths == [3] * rounds
    assert trace.draft_tokens == 0


def test_the_cache_holds_what_a_plain_run_does(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=10)
    plain, result = lvlm.run(request), lvlm.run(request, [FastVlmSelfSpeculative(2, 4)])
    assert plain.trace.kv_byte_end == result.trace.kv_byte_end


def test_the_imitation_network_changes_drafts_and_nothing_else(device: str) -> None:
    """With a target whose last layers do nothing, the identity drafts what the target says, a constant does not."""
    lvlm = LVLM.random(device=device)
    for layer in list(lvlm.language_model.layers)[2:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    request, answers = random_request(lvlm.config, max_new_tokens=9), []
    for network, accepted in ((nn.Identity(), {3}), (Constant(), {0})):
        give(lvlm, ("fastvlm-imitation", 2), network)
        result = lvlm.run(request, [FastVlmSelfSpeculative(2, 3)])
        answers.append(result.tokens_N)
        assert set(result.trace.accepted_lengths[:2]) == accepted
    assert torch.equal(*answers)
    assert torch.equal(answers[0], lvlm.run(request).tokens_N)


def test_the_imitation_network_is_a_residual(device: str) -> None:
    network = ImitationNetwork(6).to(device)
    network.down.weight.data.zero_()
    network.down.bias.data.zero_()
    hidden = torch.randn(3, 6, device=device)
    assert torch.equal(network(hidden), hidden)


def test_the_loss_is_the_angle_to_the_mean_of_the_deep_states() -> None:
    deep = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert float(imitation_loss(torch.tensor([[5.0, 5.0]]), deep)) == pytest.approx(0, abs=1e-6)
    assert float(imitation_loss(torch.tensor([[-1.0, -1.0]]), deep)) == pytest.approx(2)
    assert float(imitation_loss(torch.tensor([[1.0, 0.0]]), deep)) == pytest.approx(1 - 0.5**0.5)


def test_a_draft_of_all_layers_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="4 layers leaves none of the model's 4 to verify it; exit earlier"):
        lvlm.run(random_request(lvlm.config), [FastVlmSelfSpeculative(4)])


@pytest.mark.parametrize("name", ["exit_layer", "gamma"])
def test_illegal_parameters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        FastVlmSelfSpeculative(**{name: 0})
