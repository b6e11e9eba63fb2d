"""Relaxed verification: how often, on what text it goes on, and strict where it must be."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import one_hot

from lvlm_atlas.reference.drafting.acceptance import RejectionSampling
from lvlm_atlas.reference.drafting.draft import Draft
from lvlm_atlas.reference.drafting.rounds import Proposal
from lvlm_atlas.reference.drafting.tree import TreeDrafter
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.decoding.relaxed_verification import RelaxedVerification
from lvlm_atlas.reference.techniques.decoding.specvlm_ji import SpecVlmJi


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_without_relaxation_it_is_strict(temperature: float, device: str) -> None:
    """Greedy answers are the target's own and SpecVLM's."""
    lvlm, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    request = random_request(lvlm.config, max_new_tokens=12, temperature=temperature)
    result = lvlm.run(request, [RelaxedVerification(0.0, gamma=5, draft=draft)])
    if temperature == 0:
        strict = lvlm.run(request, [SpecVlmJi(tree=False, draft=draft)])
        assert torch.equal(result.tokens_N, lvlm.run(request).tokens_N)
        assert result.trace.accepted_lengths == strict.trace.accepted_lengths
        assert result.trace.probe_entries == strict.trace.probe_entries > 0
    assert result.trace.accepted_lengths.count(0) > 0


def test_full_relaxation_says_what_the_draft_says(device: str) -> None:
    """All of a round but the bonus token is the draft's own greedy text, on its pruned prompt."""
    lvlm, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    request = random_request(lvlm.config, max_new_tokens=11)
    result = lvlm.run(request, [RelaxedVerification(1.0, gamma=4, drop_rate=0.0, draft=draft)])
    tokens = result.tokens_N.tolist()
    assert result.trace.accepted_lengths == [4, 4]
    with torch.inference_mode():
        prompt = draft.prepare(draft.begin(request))
        for start in (1, 6):
            own = TreeDrafter(Draft(draft, prompt, Trace()), ((1,),) * 4).propose(tokens[:start])
            assert tokens[start : start + 4] == own.token_M.tolist()


def test_after_an_accepted_mismatch_the_target_goes_on_from_the_drafts_token(device: str) -> None:
    """Every row of logits is the target's after the text as it was emitted."""
    lvlm, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    request = random_request(lvlm.config, max_new_tokens=12)
    result = lvlm.run(request, [RelaxedVerification(0.8, gamma=4, draft=draft)])
    assert sum(result.trace.accepted_lengths) > 2
    with torch.inference_mode():
        prefill = lvlm.prefill(lvlm.prepare(lvlm.begin(request)))
        rows = lvlm.step(result.tokens_N[:-1], prefill.cache)
    torch.testing.assert_close(result.logits_NC[1:], rows, rtol=1e-4, atol=1e-4)


def test_a_token_that_ends_the_answer_is_never_accepted_by_relaxation(device: str) -> None:
    lvlm, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    request = random_request(lvlm.config, max_new_tokens=9)
    technique = RelaxedVerification(1.0, gamma=4, draft=draft)
    tokens = lvlm.run(request, [technique]).tokens_N.tolist()
    own = lvlm.run(request).tokens_N.tolist()
    ending = next(token for token in tokens[1:5] if token not in own)
    lvlm.config = dataclasses.replace(lvlm.config, eos_token_ids=(ending,))
    assert ending not in lvlm.run(request, [technique]).tokens_N.tolist()[:5]


@pytest.mark.parametrize("relaxation", [0.5, 0.75])
def test_the_accepted_length_is_that_of_independent_tosses(relaxation: float) -> None:
    """Where nothing matches, α = 0: the length of n tosses is (1 − p^(γ+1)) / (1 − p) − 1 on average."""
    gamma, rounds = 6, 3000
    target = one_hot(torch.zeros(gamma + 1, dtype=torch.long), 5).float()
    token = torch.full((gamma,), 2)
    proposal = Proposal(token, torch.arange(gamma) - 1, one_hot(token, 5).float())
    rule, generator = RejectionSampling(relaxation), torch.Generator().manual_seed(0)
    lengths = [len(rule.judge(proposal, target, generator).path) for _ in range(rounds)]
    expected = (1 - relaxation ** (gamma + 1)) / (1 - relaxation) - 1
    assert sum(lengths) / rounds == pytest.approx(expected, abs=0.12)
    assert lengths.count(0) / rounds == pytest.approx(1 - relaxation, abs=0.04)


def test_a_seed_fixes_the_answer(device: str) -> None:
    lvlm, draft = LVLM.random(device=device), LVLM.random(seed=1, device=device)
    technique = RelaxedVerification(0.5, gamma=4, draft=draft)
    answers = [
        lvlm.run(random_request(lvlm.config, max_new_tokens=10, seed=0), [technique]).tokens_N.tolist(),
        *(
            lvlm.run(
                dataclasses.replace(random_request(lvlm.config, max_new_tokens=10), seed=seed), [technique]
            ).tokens_N.tolist()
            for seed in (0, 1, 2, 3)
        ),
    ]
    assert answers[0] == answers[1]
    assert len({tuple(each) for each in answers}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relaxation": 1.5}, r"relaxation must lie in \[0, 1\], got 1.5"),
        ({"gamma": 0}, "gamma must be at least 1, got 0"),
        ({"drop_rate": 1.0}, r"drop_rate must be in \[0, 1\)"),
        ({"mass": -0.5}, r"mass must lie in \[0, 1\]"),
    ],
)
def test_illegal_parameters_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelaxedVerification(**arguments)  # type: ignore[arg-type]
