"""Prompt look-up: what is copied, and answers that stay the target's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lvlm_atlas.reference.drafting.copying import CopyingDrafter
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.lvlm.contexts import DecodeLoop
from lvlm_atlas.reference.ops.ngram import look_up
from lvlm_atlas.reference.techniques.decoding.prompt_lookup import PromptLookup


def begin(lvlm: LVLM, request: Request, technique: PromptLookup) -> CopyingDrafter:
    with torch.inference_mode():
        run = lvlm.begin(request, [technique])
        drafter = technique.begin_decoding(DecodeLoop(run, lvlm.prefill(lvlm.prepare(run), run))).drafter
    assert isinstance(drafter, CopyingDrafter)
    return drafter


def asking(lvlm: LVLM, before: list[int], after: list[int]) -> Request:
    request = random_request(lvlm.config, frames=1)
    prompt = [*before, request.image_token_id, *after]
    return replace(request, prompt_N=torch.tensor(prompt))


def test_the_end_of_the_text_is_no_match_for_itself() -> None:
    assert look_up(torch.tensor([7, 8, 9]), 3, 1, 4).tolist() == []
    assert look_up(torch.tensor([9, 7, 9]), 1, 1, 4).tolist() == [7, 9]


def test_the_longest_match_wins_and_of_equally_long_ones_the_earliest() -> None:
    text = torch.tensor([2, 5, 1, 2, 6, 1, 2, 7, 1, 2])
    assert look_up(text, 2, 1, 1).tolist() == [6]
    assert look_up(text, 1, 1, 1).tolist() == [5]


def test_no_frame_is_copied(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = asking(lvlm, [1, 2, 3], [4, 2, 6])
    drafter = begin(lvlm, request, PromptLookup(gamma=4, longest=1))
    assert drafter.propose([2]).token_M.tolist() == [3]
    assert drafter.propose([3]).token_M.tolist() == []
    assert drafter.propose([4]).token_M.tolist() == [2, 6, 4]


def test_the_answer_so_far_is_searched_too(device: str) -> None:
    lvlm = LVLM.random(device=device)
    drafter = begin(lvlm, asking(lvlm, [1], [2, 3]), PromptLookup(gamma=2, longest=2))
    assert drafter.propose([7, 8, 9, 7, 8]).token_M.tolist() == [9, 7]


def test_a_draft_ends_before_an_end_token(device: str) -> None:
    lvlm = LVLM.random(device=device)
    lvlm.config = replace(lvlm.config, eos_token_ids=(9,))
    drafter = begin(lvlm, asking(lvlm, [1], [5, 6, 9, 4, 5, 9]), PromptLookup(gamma=4, longest=1))
    assert drafter.propose([5]).token_M.tolist() == [6]


@pytest.mark.parametrize("seed", range(3))
def test_greedy_answers_equal_the_targets_own(seed: int, device: str) -> None:
    lvlm = LVLM.random(seed=seed, device=device)
    request = random_request(lvlm.config, max_new_tokens=24, seed=seed)
    own = lvlm.run(request)
    # The answer stands in the prompt already, so that there is something to copy.
    request = replace(request, prompt_N=torch.cat([own.tokens_N, request.prompt_N]))
    plain, result = lvlm.run(request), lvlm.run(request, [PromptLookup(gamma=4, longest=1)])
    assert torch.equal(plain.tokens_N, result.tokens_N)
    torch.testing.assert_close(plain.logits_NC, result.logits_NC, rtol=1e-4, atol=1e-4)
    assert max(result.trace.draft_lengths) > 0


def test_what_repeats_is_accepted_and_nothing_else_is_run(device: str) -> None:
    """A model whose answer falls into a loop: the copy is the answer."""
    lvlm = LVLM.random(device=device)
    lvlm.language_model.lm_head.weight.data.zero_()  # every token ties, so the first is said for ever
    request = random_request(lvlm.config, max_new_tokens=14)
    trace = lvlm.run(request, [PromptLookup(gamma=3, longest=2)]).trace
    assert trace.draft_passes == trace.draft_tokens == trace.probe_entries == 0
    assert trace.accepted_lengths[-1] == 3 or trace.output_tokens == 14
    assert trace.target_passes < 13
    assert trace.accepted_lengths == trace.draft_lengths


def test_sampled_answers_keep_the_targets_distribution() -> None:
    """A copy is accepted as often as the target says its token."""
    from lvlm_atlas.reference.drafting.acceptance import RejectionSampling

    drafter = CopyingDrafter(torch.tensor([2, 1, 0]), lambda text: look_up(text, 1, 1, 1), 3)
    proposal = drafter.propose([2])
    assert proposal.token_M.tolist() == [1]
    target = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]])
    generator, count = torch.Generator().manual_seed(0), torch.zeros(3)
    for _ in range(3000):
        verdict = RejectionSampling().judge(proposal, target, generator)
        count[1 if verdict.path else verdict.token] += 1
    torch.testing.assert_close(count / 3000, target[0], rtol=0, atol=0.03)


@pytest.mark.parametrize("name", ["gamma", "longest", "shortest"])
def test_counts_are_at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        PromptLookup(**{name: 0})
