"""HiViS: a head that reads words alone, a residual a step, and answers that stay the target's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.drafting.features import Prompt
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, Request, random_request
from lvlm_atlas.reference.modules.kept import drawn
from lvlm_atlas.reference.techniques.decoding.hivis import STEPS, HiViS, SteppedDraft, SteppedHead, words_of


def head_of(lvlm: LVLM) -> SteppedHead:
    return drawn(lambda: SteppedHead(lvlm.config.text), seed=5, device=lvlm.device)


def prompt_of(lvlm: LVLM, request: Request) -> Prompt:
    return Prompt.of(lvlm, lvlm.prefill(lvlm.prepare(lvlm.begin(request))))


def made_up(vision: list[bool]) -> Prompt:
    count = len(vision)
    numbers = torch.arange(count).float()[:, None].expand(-1, 3)
    return Prompt(numbers, 10 + numbers, torch.tensor(vision), torch.arange(count), torch.tensor(count))


def test_words_keep_their_order_and_their_positions() -> None:
    words = words_of(made_up([False, False, True, True, False, True, False]))
    assert words.position_N.tolist() == [0, 1, 4, 6]
    assert words.embed_ND[:, 0].tolist() == [0, 1, 4, 6]
    assert words.feature_ND[:, 0].tolist() == [10, 11, 14, 16]
    assert not words.vision_N.any()
    assert words.next_position.tolist() == 7


def test_the_last_place_stays_whatever_stands_there() -> None:
    assert words_of(made_up([False, True, True])).position_N.tolist() == [0, 2]
    whole = made_up([False, False])
    assert torch.equal(words_of(whole).feature_ND, whole.feature_ND)


@torch.inference_mode()
def test_the_head_reads_words_alone(device: str) -> None:
    """With the target's features held fixed, another picture changes nothing."""
    lvlm = LVLM.random(device=device)
    head, one = head_of(lvlm), random_request(lvlm.config, frames=2)
    other = replace(one, frames_F3HW=torch.as_tensor(one.frames_F3HW) + 1)
    prompt, changed = prompt_of(lvlm, one), prompt_of(lvlm, other)
    assert not torch.equal(prompt.embed_ND, changed.embed_ND)
    mixed = replace(changed, feature_ND=prompt.feature_ND.where(~prompt.vision_N[:, None], changed.feature_ND))
    rows = [SteppedDraft(lvlm, head, words_of(each), Trace()).read([5]) for each in (prompt, mixed, changed)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[2]), "the features of the words know the picture"
    draft = SteppedDraft(lvlm, head, words_of(prompt), Trace())
    assert draft.trace.draft_tokens == int((~prompt.vision_N).sum())
    assert draft.store.length == draft.trace.draft_tokens - 1


def entered(lvlm: LVLM, draft: SteppedDraft) -> list[Tensor]:
    """What enters the head's layer in each pass, from now on."""
    seen: list[Tensor] = []
    run = draft._run

    def note(entered_MD: Tensor, position_M: Tensor, mask_MS: Tensor) -> Tensor:
        seen.append(entered_MD)
        return run(entered_MD, position_M, mask_MS)

    draft._run = note  # type: ignore[method-assign]
    return seen


@torch.inference_mode()
def test_a_word_stands_beside_the_hidden_state_of_the_word_before(device: str) -> None:
    lvlm = LVLM.random(device=device)
    head = head_of(lvlm)
    words = words_of(prompt_of(lvlm, random_request(lvlm.config, frames=1)))
    rows = head.enter_at(words.embed_ND[1:], words.feature_ND[:-1], 0)
    draft = SteppedDraft(lvlm, head, words, Trace())
    key = head.layer.project(rows[None], words.position_N[None, 1:])[1]
    torch.testing.assert_close(draft.store.read()[0], key, rtol=1e-4, atol=1e-4)
    seen = entered(lvlm, draft)
    draft.read([5])
    expected = head.enter_at(lvlm.embed(torch.tensor([5])), words.feature_ND[-1:], 0)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_each_step_of_a_draft_has_its_own_residual(device: str) -> None:
    lvlm = LVLM.random(device=device)
    head = head_of(lvlm)
    head.fc.weight.data.zero_()
    head.fc.bias.data.zero_()
    draft = SteppedDraft(lvlm, head, words_of(prompt_of(lvlm, random_request(lvlm.config, frames=1))), Trace())
    for tokens in ([5], [5, 6]):
        seen = entered(lvlm, draft)
        draft.read(tokens)
        for _ in range(STEPS + 1):
            draft.guess(torch.tensor([7, 8]), torch.tensor([-1, -1]))
        steps = [0, *range(1, STEPS), STEPS - 1, STEPS - 1]
        for step, rows in zip(steps, seen, strict=True):
            torch.testing.assert_close(rows, head.step_SD[step].expand_as(rows))
        draft.keep(0)


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack"])
def test_greedy_answers_are_the_targets_own_and_the_trace_counts_words(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=9)
    plain, result = lvlm.run(request), lvlm.run(request, [HiViS(nodes=12, depth=3, top_k=4)])
    trace = result.trace
    assert torch.equal(plain.tokens_N, result.tokens_N)
    assert trace.draft_tokens == trace.text_tokens
    assert trace.draft_passes == 3 * trace.target_passes
    assert trace.draft_nodes == [12] * trace.target_passes
    assert len(trace.accepted_lengths) == trace.target_passes


def test_every_token_is_drafted_and_so_one_is_accepted(device: str) -> None:
    lvlm = LVLM.random(device=device)
    words = lvlm.vocab_size
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=7), [HiViS(words, 1, words)]).trace
    assert trace.accepted_lengths == [1, 1, 1]


@pytest.mark.parametrize("name", ["nodes", "depth", "top_k"])
def test_illegal_parameters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        HiViS(**{name: 0})
