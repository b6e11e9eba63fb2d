"""Speculative sampling: the rule, the draft's cache, and the answer's distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.chain import ChainDrafter
from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import Proposal, Verified
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm.config import LVLMConfig, TextConfig, VisionConfig
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.ops.sampling import distribution
from lvlm_atlas.reference.ops.verification import verify
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling

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
"""Small enough to answer thousands of requests in a test."""


def micro(seed: int) -> LVLM:
    torch.manual_seed(seed)
    return LVLM(MICRO).eval()


def at(temperature: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: distribution(logits, temperature)


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def test_a_token_is_accepted_up_to_the_ratio_and_replaced_by_what_the_draft_missed(device: str) -> None:
    p = tensor([0.2, 0.5, 0.3], [1.0, 0.0, 0.0]).to(device)
    q = tensor([0.8, 0.1, 0.1]).to(device)
    ratio = float(p[0, 0].double() / q[0, 0].double())
    accepted, after = verify(p, q, torch.tensor([0]), torch.tensor([ratio], dtype=torch.float64))
    assert (accepted, after.tolist()) == (1, [1.0, 0.0, 0.0])
    accepted, after = verify(p, q, torch.tensor([0]), torch.tensor([ratio + 1e-9], dtype=torch.float64))
    assert accepted == 0
    torch.testing.assert_close(after.cpu().float(), torch.tensor([0.0, 0.4 / 0.6, 0.2 / 0.6]))


def test_the_first_rejection_ends_the_round(device: str) -> None:
    p = tensor([0.0, 1.0], [1.0, 0.0], [0.5, 0.5]).to(device)
    q = tensor([1.0, 0.0], [1.0, 0.0]).to(device)
    accepted, after = verify(p, q, torch.tensor([0, 0]), torch.tensor([0.5, 0.5]))
    assert (accepted, after.tolist()) == (0, [0.0, 1.0])


def test_the_target_speaks_where_rounding_leaves_nothing_to_replace_with() -> None:
    p, q = tensor([0.5, 0.5], [0.5, 0.5]), tensor([0.6, 0.5])
    accepted, after = verify(p, q, torch.tensor([0]), torch.tensor([0.95]))
    assert (accepted, after.tolist()) == (0, [0.5, 0.5])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_answer_keeps_its_probability_exactly(seed: int) -> None:
    """All drafts, all ways to reject, summed: γ + 1 tokens are as likely as under the target alone."""
    vocabulary, gamma = 3, 2
    generator = torch.Generator().manual_seed(seed)

    def table() -> dict[tuple[int, ...], Tensor]:
        prefixes = [prefix for n in range(gamma + 1) for prefix in product(range(vocabulary), repeat=n)]
        return {prefix: (torch.randn(vocabulary, generator=generator).double() * 2).softmax(-1) for prefix in prefixes}

    p, q = table(), table()

    def follow(prefix: tuple[int, ...], probability: float, next_C: Tensor) -> None:
        """Note the answers that begin with a round's outcome; the target completes short ones."""
        for token in range(vocabulary):
            longer, weight = (*prefix, token), probability * float(next_C[token])
            if len(longer) == gamma + 1:
                joint[longer] = joint.get(longer, 0) + weight
            else:
                follow(longer, weight, p[longer])

    joint: dict[tuple[int, ...], float] = {}
    for drafted in product(range(vocabulary), repeat=gamma):
        prefixes = [drafted[:i] for i in range(gamma + 1)]
        target_MC = torch.stack([p[prefix] for prefix in prefixes])
        draft_MC = torch.stack([q[prefix] for prefix in prefixes[:-1]])
        drawn = [float(q[prefix][token]) for prefix, token in zip(prefixes, drafted, strict=False)]
        ratio = [float(p[prefix][token]) / d for prefix, token, d in zip(prefixes, drafted, drawn, strict=False)]
        weight = drawn[0] * drawn[1]
        for rejected in range(gamma + 1):  # the first token to reject; γ: none
            uniform = [r / 2 for r in ratio]
            if rejected < gamma:
                if ratio[rejected] >= 1:
                    continue
                uniform[rejected] = (ratio[rejected] + 1) / 2
            chance = weight
            for i in range(rejected):
                chance *= min(1, ratio[i])
            chance *= 1 - ratio[rejected] if rejected < gamma else 1
            accepted, after = verify(
                target_MC, draft_MC, torch.tensor(drafted), torch.tensor(uniform, dtype=torch.float64).clamp(max=1)
            )
            assert accepted == rejected
            follow(drafted[:accepted], chance, after)
    for answer in product(range(vocabulary), repeat=gamma + 1):
        expected = float(p[()][answer[0]] * p[answer[:1]][answer[1]] * p[answer[:2]][answer[2]])
        assert joint[answer] == pytest.approx(expected, abs=1e-12)


def test_sampled_answers_are_distributed_as_the_targets() -> None:
    """Chi-square over many seeds: it fails if the draft draws with the verifier's numbers, or p stands in for p − q."""
    target, technique, seeds = micro(3), SpeculativeSampling(gamma=2, draft=micro(5)), 400
    request = random_request(MICRO, frames=1, text_tokens=2, max_new_tokens=2, temperature=0.3)
    count, expected = torch.zeros(4, 4), torch.zeros(4, 4)
    for seed in range(seeds):
        count[tuple(target.run(replace(request, seed=seed), [technique]).tokens_N.tolist())] += 1
    with torch.inference_mode():
        for first in range(4):
            prefill = target.prefill(target.prepare(target.begin(request)))
            logits_MC = target.step(torch.tensor([first]), prefill.cache)
            expected[first] = distribution(logits_MC[0], 0.3) * distribution(prefill.logits_C, 0.3)[first] * seeds
    likely = expected > 4
    statistic = float(((count - expected)[likely].square() / expected[likely]).sum())
    assert int(likely.sum()) == 8
    assert statistic < 24, "the 0.2 % point of 8 degrees of freedom"


@pytest.mark.parametrize("other", [False, True])
def test_greedy_answers_equal_the_targets_own_with_any_draft(other: bool, device: str) -> None:
    target = LVLM.random(device=device)
    draft = LVLM.random(seed=1, device=device) if other else None
    request = random_request(target.config, max_new_tokens=14)
    plain, result = target.run(request), target.run(request, [SpeculativeSampling(gamma=3, draft=draft)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [1, 4])
@pytest.mark.parametrize("other", [False, True])
def test_the_trace_counts_drafts_and_the_cache_holds_what_was_accepted(gamma: int, other: bool, device: str) -> None:
    target = LVLM.random(device=device)
    draft = LVLM.random(seed=1, device=device) if other else None
    request = random_request(target.config, max_new_tokens=14)
    trace = target.run(request, [SpeculativeSampling(gamma=gamma, draft=draft)]).trace
    rounds, accepted = trace.target_passes, sum(trace.accepted_lengths)
    assert trace.draft_lengths == [gamma] * rounds
    assert trace.draft_passes == gamma * rounds
    assert trace.draft_tokens == trace.vision_tokens + trace.text_tokens == 400
    assert trace.kv_byte_end == (400 + 14 - 1) * trace.kv_byte[0] * 4 // 400  # what was accepted behind the end is gone
    assert trace.output_tokens == 14 <= 1 + rounds + accepted
    assert trace.accepted_lengths == ([0] * rounds if other else [gamma] * rounds)
    assert trace.probe_entries == 0


@pytest.mark.parametrize("accepted", [0, 1, 2, 3])
def test_the_drafts_cache_goes_back_to_the_accepted_tokens(accepted: int, device: str) -> None:
    """With all γ accepted, the draft has not read the last one yet and must."""
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    vocabulary = lvlm.config.text.vocab_size
    with torch.inference_mode():
        prompt = lvlm.prepare(lvlm.begin(request))
        drafter = ChainDrafter(Draft(lvlm, prompt, Trace()), 3, at(1.0), torch.Generator().manual_seed(0))
        tokens = [5]
        proposal = drafter.propose(tokens)
        wanted = proposal.token_M.tolist()[:accepted] + [(int(t) + 1) % vocabulary for t in proposal.token_M[accepted:]]
        target_MC = one_hot([*wanted, 7], vocabulary, device)
        verdict = RejectionSampling().judge(proposal, target_MC, torch.Generator().manual_seed(0))
        drafter.settle(Verified(proposal, verdict, target_MC, ()))
        assert verdict.path == tuple(range(accepted))
        assert verdict.token == ([*wanted, 7])[accepted]
        tokens += [*wanted[:accepted], verdict.token]
        assert drafter.draft.cache.stores[0].length == 400 + 1 + min(accepted, 2)
        again = drafter.propose(tokens).probability_MC[0]
        fresh = distribution(Draft(lvlm, prompt, Trace()).read(tokens), 1.0)
        assert drafter.draft.cache.next_position.unique().tolist() == [400 + len(tokens)]
    torch.testing.assert_close(again, fresh, rtol=1e-4, atol=1e-5)


def one_hot(tokens: list[int], vocabulary: int, device: str) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(tokens, device=device), vocabulary).float()


def test_drafts_are_drawn_at_the_temperature_of_the_request(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        prompt = lvlm.prepare(lvlm.begin(random_request(lvlm.config)))
        logits = Draft(lvlm, prompt, Trace()).read([5])
        drafter = ChainDrafter(Draft(lvlm, prompt, Trace()), 1, at(0.5), torch.Generator().manual_seed(0))
        proposal: Proposal = drafter.propose([5])
    torch.testing.assert_close(proposal.probability_MC[0], (logits / 0.5).softmax(-1))


def test_a_seed_fixes_the_answer_and_another_one_changes_it(device: str) -> None:
    target = LVLM.random(device=device)
    technique = SpeculativeSampling(gamma=2, draft=LVLM.random(seed=1, device=device))
    runs = [
        target.run(random_request(target.config, temperature=1.5, seed=seed), [technique]).tokens_N.tolist()
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_an_answer_of_one_token_needs_no_round(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=1), [SpeculativeSampling()]).trace
    assert (trace.target_passes, trace.draft_passes, trace.output_tokens) == (0, 0, 1)


def test_models_with_different_vocabularies_cannot_pair() -> None:
    target = LVLM.random()
    with pytest.raises(Refusal, match="one vocabulary, got 4 and 128"):
        target.run(random_request(target.config), [SpeculativeSampling(draft=micro(0))])


def test_a_round_drafts_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="gamma must be at least 1, got 0"):
        SpeculativeSampling(gamma=0)
