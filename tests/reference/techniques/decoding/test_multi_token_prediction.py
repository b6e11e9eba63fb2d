"""Multi-token prediction: what stands beside what, whose norms, and that answers stay the target's."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.features import FeatureDraft, Prompt
from lvlm_atlas.reference.drafting.rounds import Proposal, Verdict, Verified
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.ops.sampling import distribution
from lvlm_atlas.reference.techniques.decoding.multi_token_prediction import MultiTokenModule, MultiTokenPrediction

MICRO = LVLMConfig(
    vision=VisionConfig(
        image_size=4, patch_size=2, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    ),
    text=TextConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    ),
    image_token_id=3,
)
"""Small enough to answer hundreds of requests in a test."""


def module_for(lvlm: LVLM) -> MultiTokenModule:
    return drawn(lambda: MultiTokenModule(lvlm.config.text), seed=5, device=lvlm.device)


def draft_of(lvlm: LVLM, module: MultiTokenModule, request: Request) -> FeatureDraft:
    prompt = Prompt.of(lvlm, lvlm.prefill(lvlm.prepare(lvlm.begin(request))))
    rows = module.enter(prompt.embed_ND[1:], prompt.feature_ND[:-1])
    return FeatureDraft(lvlm, module, module.enter, rows, prompt.position_N[1:], prompt, Trace())


def by_hand(lvlm: LVLM, module: MultiTokenModule, request: Request, tokens: Seq[int], own: Tensor) -> Tensor:
    """The module's states (N, D) in one causal pass over prompt and tokens; `own` are the last states it reads."""
    inputs = lvlm.prepare(lvlm.begin(request))
    states = torch.cat([lvlm.final_norm(lvlm.prefill(inputs).outputs.hidden_BND[0]), own])
    embed = torch.cat([inputs.hidden_BND[0, 1:], lvlm.embed(torch.tensor(tokens))])

    def rms(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + lvlm.config.text.rms_norm_eps)

    x = (torch.cat([rms(embed), rms(states)], dim=-1) @ module.fc.weight.T)[None]
    after = inputs.next_position[:, None] + torch.arange(len(tokens), device=lvlm.device)
    position = inputs.position_BN
    if position.dim() == 3:
        after = after[..., None].expand(-1, -1, position.shape[2])
    query, key, value = module.layer.project(x, torch.cat([position[:, 1:], after], dim=1))
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
    return rms(module.layer.finish(x, scores.softmax(-1) @ value))[0]


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
@torch.inference_mode()
def test_each_token_stands_beside_the_hidden_state_of_the_place_before(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    module, request = module_for(lvlm), random_request(lvlm.config, frames=2)
    draft = draft_of(lvlm, module, request)
    none = torch.empty(0, lvlm.config.text.hidden_size, device=device)
    expected = by_hand(lvlm, module, request, [5], none)
    torch.testing.assert_close(draft.read([5]), lvlm.head(expected[-1:])[0], rtol=1e-3, atol=1e-3)
    further = by_hand(lvlm, module, request, [5, 7], expected[-1:])
    torch.testing.assert_close(draft.guess(torch.tensor([7])), lvlm.head(further[-1:]), rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_the_module_reads_the_vision_tokens_own_embeddings(device: str) -> None:
    lvlm = LVLM.random(device=device)
    module = module_for(lvlm)
    one = random_request(lvlm.config, frames=1)
    other = replace(one, frames_F3HW=torch.as_tensor(one.frames_F3HW) + 1)
    prompts = [Prompt.of(lvlm, lvlm.prefill(lvlm.prepare(lvlm.begin(each)))) for each in (one, other)]
    entered = [module.enter(prompts[0].embed_ND[1:], each[:-1]) for each in (prompts[0].feature_ND,) * 2]
    assert torch.equal(*entered)
    mixed = module.enter(prompts[1].embed_ND[1:], prompts[0].feature_ND[:-1])
    differs = (mixed - entered[0]).abs().sum(-1) > 0
    assert torch.equal(differs, prompts[0].vision_N[1:]), "the embeddings of the picture reach the module"
    assert draft_of(lvlm, module, one).trace.draft_tokens == len(prompts[0].embed_ND)


@torch.inference_mode()
def test_embedding_and_hidden_state_have_norms_of_their_own(device: str) -> None:
    lvlm = LVLM.random(device=device)
    module, width = module_for(lvlm), lvlm.config.text.hidden_size
    embed, hidden = torch.randn(3, width, device=device), torch.randn(3, width, device=device)
    before = module.enter(embed, hidden)
    torch.testing.assert_close(module.enter(1000 * embed, hidden), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(module.enter(embed, 1000 * hidden), before, rtol=1e-3, atol=1e-3)
    module.embedding_norm.weight.data.zero_()
    torch.testing.assert_close(module.enter(embed, hidden), module.enter(2 - embed, hidden))
    assert not torch.allclose(module.enter(embed, hidden), module.enter(embed, 2 - hidden))


@torch.inference_mode()
def test_the_head_reads_the_modules_own_norm(device: str) -> None:
    lvlm = LVLM.random(device=device)
    module, request = module_for(lvlm), random_request(lvlm.config, frames=1)
    before = draft_of(lvlm, module, request).read([5])
    lvlm.language_model.model.norm.weight.data.mul_(1.0)
    module.norm.weight.data.mul_(3)
    torch.testing.assert_close(draft_of(lvlm, module, request).read([5]), 3 * before, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_after_a_round_the_targets_states_take_the_place_of_the_modules_own(device: str) -> None:
    lvlm = LVLM.random(device=device)
    module, request = module_for(lvlm), random_request(lvlm.config, frames=1)
    draft = draft_of(lvlm, module, request)
    draft.read([5])
    draft.guess(torch.tensor([7]))
    cache = lvlm.prefill(lvlm.prepare(lvlm.begin(request))).cache
    states = lvlm.hidden_states(torch.tensor([5, 7]), cache)
    proposal = Proposal(torch.tensor([7]), torch.tensor([-1]), torch.ones(1, lvlm.vocab_size))
    draft.keep(0)
    draft.learn(Verified(proposal, Verdict((0,), 9), lvlm.logits(states[-1]), states))
    expected = by_hand(lvlm, module, request, [5, 7, 9], lvlm.final_norm(states[-1]))
    torch.testing.assert_close(draft.read([5, 7, 9]), lvlm.head(expected[-1:])[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gamma", [1, 3])
def test_greedy_answers_are_the_targets_own_and_the_trace_counts_drafts(gamma: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=10)
    plain, result = lvlm.run(request), lvlm.run(request, [MultiTokenPrediction(gamma)])
    trace, rounds = result.trace, result.trace.target_passes
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert trace.draft_lengths == trace.draft_nodes == [gamma] * rounds
    assert trace.draft_passes == gamma * rounds
    assert trace.draft_tokens == 400
    assert len(trace.accepted_lengths) == rounds
    assert trace.output_tokens <= 1 + rounds + sum(trace.accepted_lengths)
    assert trace.kv_byte_end == plain.trace.kv_byte_end


def test_a_module_that_knows_what_comes_is_accepted() -> None:
    """A target whose head says one token only: the module's states do not matter, and all drafts are accepted."""
    lvlm = LVLM.random()
    lvlm.language_model.lm_head.weight.data.zero_()
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=9), [MultiTokenPrediction(3)]).trace
    assert trace.accepted_lengths == [3, 3]


def test_sampled_answers_are_distributed_as_the_targets() -> None:
    """Chi-square over many seeds: it fails if the draft draws with the verifier's numbers, or its q is not told."""
    torch.manual_seed(3)
    target, technique, seeds = LVLM(MICRO).eval(), MultiTokenPrediction(2), 400
    request = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=3, temperature=0.3)
    count, expected = torch.zeros(4, 4), torch.zeros(4, 4)
    for seed in range(seeds):
        count[tuple(target.run(replace(request, seed=seed), [technique]).tokens_N.tolist()[:2])] += 1
    with torch.inference_mode():
        for first in range(4):
            prefill = target.prefill(target.prepare(target.begin(request)))
            logits = target.step(torch.tensor([first]), prefill.cache)[0]
            expected[first] = distribution(logits, 0.3) * distribution(prefill.logits_C, 0.3)[first] * seeds
    likely = expected > 4
    statistic = float(((count - expected)[likely].square() / expected[likely]).sum())
    assert 3 < int(likely.sum()) <= 12
    assert statistic < 31, "the 0.2 % point of 12 degrees of freedom"


def test_a_round_drafts_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="gamma must be at least 1, got 0"):
        MultiTokenPrediction(0)
