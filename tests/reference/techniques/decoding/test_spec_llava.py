"""Spec-LLaVA: trees that follow the draft's confidence, and answers that stay the target's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.tree import GrowingTreeDrafter, grow_and_prune
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.techniques.decoding.spec_llava import SpecLlava

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


def micro(seed: int) -> LVLM:
    torch.manual_seed(seed)
    return LVLM(MICRO).eval()


def grown(
    probabilities: dict[tuple[int, ...], list[float]], nodes: int, depth: int, top_k: int
) -> list[tuple[int, ...]]:
    """Paths of a tree by a draft that says this after these paths."""
    read: list[tuple[int, ...]] = []

    def expand(token_R: Tensor, follows_R: Tensor) -> Tensor:
        read.extend(
            (*(read[follows] if follows >= 0 else ()), token)
            for token, follows in zip(token_R.tolist(), follows_R.tolist(), strict=True)
        )
        return torch.tensor([probabilities[path] for path in read[-len(token_R) :]]).log()

    token, parent = grow_and_prune(torch.tensor(probabilities[()]).log(), expand, nodes=nodes, depth=depth, top_k=top_k)
    paths: list[tuple[int, ...]] = []
    for each, before in zip(token.tolist(), parent.tolist(), strict=True):
        paths.append((*(paths[before] if before >= 0 else ()), each))
    return paths


def test_what_the_draft_believes_in_pushes_out_what_it_does_not() -> None:
    """0.6 · 0.5 and 0.6 · 0.4 outdo the third first token; 0.6 · 0.5 · 0.9 then outdoes the second, which was read."""
    flat = [1 / 3] * 3
    says = {
        (): [0.6, 0.25, 0.15],
        (0,): [0.5, 0.4, 0.1],
        (1,): flat,
        (2,): flat,
        (0, 0): [0.9, 0.05, 0.05],
        (0, 1): flat,
    }
    assert grown(says, 3, 1, 2) == [(0,), (1,), (2,)]
    assert grown(says, 4, 2, 2) == [(0,), (1,), (0, 0), (0, 1)]
    assert grown(says, 3, 3, 2) == [(0,), (0, 0), (0, 0, 0)]


def test_a_path_is_never_likelier_than_its_beginning() -> None:
    """A draft that is certain further down: parents stay, however small the tree is."""
    sure = [1.0, 0.0, 0.0]
    says = {(): [0.4, 0.35, 0.25], (0,): sure, (1,): sure, (2,): sure, (0, 0): sure, (1, 0): sure, (2, 0): sure}
    assert grown(says, 2, 3, 1) == [(0,), (0, 0)]
    assert grown(says, 3, 3, 1) == [(0,), (0, 0), (0, 0, 0)]


def test_a_tree_without_new_nodes_is_done(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        trace = Trace()
        draft = Draft(lvlm, lvlm.prepare(lvlm.begin(random_request(lvlm.config, frames=1))), trace)
        GrowingTreeDrafter(draft, 2, 6, 3, grow_and_prune).propose([5])
    assert trace.draft_passes == 2, "an unsure draft stays with its two first tokens"


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
@pytest.mark.parametrize("other", [False, True])
def test_trees_differ_from_round_to_round_and_answers_stay_the_targets(preset: str, other: bool, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    draft = LVLM.random(preset, seed=1, device=device) if other else None
    request = random_request(lvlm.config, frames=2, max_new_tokens=12)
    plain, result = lvlm.run(request), lvlm.run(request, [SpecLlava(48, 4, 6, draft)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)
    trace = result.trace
    assert {*trace.draft_nodes} == {48}
    assert 2 * trace.target_passes <= trace.draft_passes <= 4 * trace.target_passes
    if not other:
        assert min(trace.accepted_lengths) >= 1, "the target's own choice is the tree's likeliest first token"


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.8)])
def test_sampled_answers_are_distributed_as_the_targets(temperature: float, top_p: float) -> None:
    """Chi-square of answers of two tokens over many seeds, with a draft that is not the target."""
    target, technique, seeds = micro(3), SpecLlava(4, 2, 3, micro(5)), 200
    base = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=2, temperature=temperature)
    request = replace(base, top_p=top_p)
    expected, count = likelihood(target, request) * seeds, torch.zeros(4, 4)
    for seed in range(seeds):
        count[tuple(target.run(replace(request, seed=seed), [technique]).tokens_N.tolist())] += 1
    assert not count[expected == 0].any(), "nothing outside of the nucleus"
    likely = expected > 4
    statistic = float(((count - expected)[likely].square() / expected[likely]).sum())
    freedom = int(likely.sum())
    assert statistic < freedom + 3.5 * (2 * freedom) ** 0.5


def likelihood(target: LVLM, request: Request) -> Tensor:
    """(4, 4): how likely each answer of two tokens is under the target alone."""
    chance = torch.zeros(4, 4)
    with torch.inference_mode():
        for first in range(4):
            prefill = target.prefill(target.prepare(target.begin(request)))
            rows = request.distribution(target.step(torch.tensor([first]), prefill.cache))
            chance[first] = request.distribution(prefill.logits_C)[first] * rows[0]
    return chance


@pytest.mark.parametrize("name", ["nodes", "depth", "top_k"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SpecLlava(**{name: 0})
