"""EAGLE-2: what the head reads, how its trees grow, and answers that stay the target's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.features import FeatureDraft
from lvlm_atlas.reference.drafting.rounds import Proposal, Verdict, Verified
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, grow
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.modules.feature_head import FeatureHead
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.tree_verification import TreeVerification

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


def begin(lvlm: LVLM, request: Request, technique: TreeVerification) -> tuple[GrowingTreeDrafter, DecodeLoop]:
    with torch.inference_mode():
        run = lvlm.begin(request, [technique])
        at = DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))
        drafter = technique.begin_decoding(at).drafter
    assert isinstance(drafter, GrowingTreeDrafter)
    return drafter, at


def give_head(lvlm: LVLM, seed: int) -> FeatureHead:
    head = drawn(lambda: FeatureHead(lvlm.config.text), seed=seed, device=lvlm.device)
    give(lvlm, "feature-head", head)
    return head


@torch.inference_mode()
def test_each_token_stands_beside_the_feature_that_it_was_drawn_from(device: str) -> None:
    """A head without attention sees its last row alone: the first token, and the feature of the prompt's last."""
    lvlm = LVLM.random(device=device)
    head = give_head(lvlm, 0)
    head.layer.self_attn.o_proj.weight.zero_()
    drafter, at = begin(lvlm, random_request(lvlm.config, frames=1), TreeVerification())
    last = lvlm.final_norm(at.prefill.outputs.hidden_BND[0, -1])

    def follows(token: int, feature: Tensor) -> Tensor:
        x = head.fc(torch.cat([lvlm.embed(torch.tensor([token]))[0], feature]))
        return x + head.layer.mlp(head.layer.post_attention_layernorm(x))

    first = follows(5, last)
    torch.testing.assert_close(drafter.draft.read([5]), lvlm.head(first), rtol=1e-4, atol=1e-4)
    # Below, the head's own feature stands in for the target's.
    torch.testing.assert_close(
        drafter.draft.guess(torch.tensor([7]), torch.tensor([-1]))[0],
        lvlm.head(follows(7, first)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_path_counts_and_not_the_last_token() -> None:
    """0.6 · 0.5 beats 0.3 · 0.9: the better child of the worse parent is not expanded."""
    after = {(): [0.6, 0.3, 0.1], (0,): [0.5, 0.3, 0.2], (1,): [0.9, 0.06, 0.04]}
    paths: list[tuple[int, ...]] = []

    def expand(token: Tensor, follows: Tensor) -> Tensor:
        new = [((*paths[f], t) if f >= 0 else (t,)) for t, f in zip(token.tolist(), follows.tolist(), strict=True)]
        paths.extend(new)
        return torch.tensor([after.get(path, [0.4, 0.3, 0.3]) for path in new]).log()

    token, parent = grow(torch.tensor(after[()]).log(), expand, nodes=4, depth=3, top_k=2)
    assert paths == [(0,), (1,), (0, 0), (1, 0)]
    assert (token.tolist(), parent.tolist()) == ([0, 1, 0, 0], [-1, -1, 0, 1])
    paths.clear()
    token, parent = grow(torch.tensor(after[()]).log(), expand, nodes=3, depth=2, top_k=2)
    assert (token.tolist(), parent.tolist()) == ([0, 1, 0], [-1, -1, 0])


@torch.inference_mode()
def test_the_head_goes_on_from_the_targets_features(device: str) -> None:
    """After a round its draft is that of a head which has just read the same text."""
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1)
    technique = TreeVerification(nodes=6, depth=2, top_k=3)
    drafter, at = begin(lvlm, request, technique)
    proposal = drafter.propose([5])
    token, parent = (
        torch.cat([torch.tensor([5]), proposal.token_M]),
        torch.cat([torch.tensor([-1]), proposal.parent_M + 1]),
    )
    states = lvlm.hidden_states(token, at.prefill.cache, parent)
    drafter.settle(Verified(proposal, Verdict((0,), 9), lvlm.logits(states[-1]), states))
    told = [5, int(proposal.token_M[0]), 9]
    again = drafter.propose(told)
    # The same by a head that never drafted: it is told the target's features of a chain.
    fresh, at = begin(lvlm, request, technique)
    fresh.draft.read([5])
    chain = lvlm.hidden_states(torch.tensor(told[:2]), at.prefill.cache)
    fresh.draft.learn(Verified(Proposal.none(128), Verdict((0,), 9), torch.empty(0), chain))
    expected = fresh.propose(told)
    assert torch.equal(again.token_M, expected.token_M)
    assert torch.equal(again.parent_M, expected.parent_M)
    assert isinstance(drafter.draft, FeatureDraft)
    assert drafter.draft.store.length == at.prefill.inputs.length - 1 + 3 + 3, "the prompt's rows, the text, a level"


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
@pytest.mark.parametrize("parameters", [{"nodes": 12, "depth": 3, "top_k": 4}, {"nodes": 1, "depth": 1, "top_k": 1}])
def test_greedy_answers_equal_the_targets_own(preset: str, parameters: dict[str, int], device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=10)
    plain, result = lvlm.run(request), lvlm.run(request, [TreeVerification(**parameters)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)


def likelihood(target: LVLM, request: Request) -> Tensor:
    """(4, 4): how likely each answer of two tokens is under the target alone."""
    chance = torch.zeros(4, 4)
    with torch.inference_mode():
        for first in range(4):
            prefill = target.prefill(target.prepare(target.begin(request)))
            rows = request.distribution(target.step(torch.tensor([first]), prefill.cache))
            chance[first] = request.distribution(prefill.logits_C)[first] * rows[0]
    return chance


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.4, 1.0), (1.0, 0.7)])
def test_sampled_answers_are_distributed_as_the_targets(temperature: float, top_p: float) -> None:
    """Chi-square over many seeds, at trees that are wide and deep enough to be accepted often."""
    torch.manual_seed(3)
    target, seeds = LVLM(MICRO).eval(), 200
    base = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=2, temperature=temperature)
    request = replace(base, top_p=top_p)
    expected, count = likelihood(target, request) * seeds, torch.zeros(4, 4)
    for seed in range(seeds):
        answer = target.run(replace(request, seed=seed), [TreeVerification(nodes=5, depth=2, top_k=3)])
        count[tuple(answer.tokens_N.tolist())] += 1
    assert not count[expected == 0].any(), "nothing outside of the nucleus"
    likely = expected > 4
    statistic = float(((count - expected)[likely].square() / expected[likely]).sum())
    freedom = int(likely.sum())
    assert statistic < freedom + 3.5 * (2 * freedom) ** 0.5


def test_the_trace_counts_trees_and_passes(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=9)
    trace = lvlm.run(request, [TreeVerification(nodes=50, depth=3, top_k=4)]).trace
    rounds = trace.target_passes
    assert trace.draft_nodes == [4 + 16 + 16] * rounds, "there are no more candidates"
    assert trace.draft_lengths == [3] * rounds
    assert trace.draft_passes == 3 * rounds
    assert trace.draft_tokens == 400
    assert trace.output_tokens == 9
    assert trace.kv_byte_end == (400 + 9 - 1) * trace.kv_byte[0] * 4 // 400


def test_a_vocabulary_smaller_than_the_branches_is_refused() -> None:
    torch.manual_seed(0)
    lvlm = LVLM(MICRO).eval()
    with pytest.raises(Refusal, match="a node gets 10 children, of a vocabulary of 4; lower the number"):
        lvlm.run(random_request(MICRO, frames=1, text_tokens=2), [TreeVerification()])


@pytest.mark.parametrize("name", ["nodes", "depth", "top_k"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TreeVerification(**{name: 0})
