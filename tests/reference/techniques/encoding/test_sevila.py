"""SeViLA's localizer."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.techniques.encoding.sevila import SeViLA, evenly_spaced, yes_score

YES = 3


def test_candidates_by_hand() -> None:
    assert evenly_spaced(9, 3).tolist() == [1, 4, 7]  # borders 0, 3, 6, 9
    assert evenly_spaced(8, 2).tolist() == [2, 6]  # the later of two middles
    assert evenly_spaced(5, 32).tolist() == [0, 1, 2, 3, 4]
    assert evenly_spaced(1, 1).tolist() == [0]


@given(st.integers(1, 300), st.integers(1, 64))
def test_candidates_rise_and_lie_in_the_video(total: int, candidates: int) -> None:
    places = evenly_spaced(total, candidates).tolist()
    assert places == sorted(set(places))
    assert len(places) == min(total, candidates)
    assert places[0] >= 0
    assert places[-1] < total


def test_a_raw_logit_and_a_probability_rank_frames_differently(device: str) -> None:
    # The second frame makes every token likelier, the first is more certain of yes.
    logit_CT = torch.tensor([[2.0, 0.0, 0.0], [3.0, 4.0, 0.0]], device=device)
    assert yes_score(logit_CT, 0).tolist() == [2.0, 3.0]
    share_C = yes_score(logit_CT, 0, "probability")
    torch.testing.assert_close(share_C.cpu(), torch.tensor([0.786986, 0.265388]), atol=1e-5, rtol=0)
    # Softmax over yes and no alone would be yet another number.
    assert abs(float(logit_CT[1, [0, 2]].softmax(0)[0] - share_C[1])) > 0.5


@pytest.mark.parametrize("preset", ["tiny", "tiny-window", "tiny-deepstack", "tiny-tiles"])
def test_the_model_is_asked_about_each_frame_alone(device: str, preset: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=2)
    run = lvlm.run(request, [SeViLA(2, yes_token=YES)])
    yes = [
        float(lvlm.run(replace(request.keep_frames(torch.tensor([frame])), max_new_tokens=1)).logits_NC[0, YES])
        for frame in range(4)
    ]
    best = sorted(sorted(range(4), key=lambda frame: -yes[frame])[:2])
    assert run.trace.frame_index is not None
    assert run.trace.frame_index.tolist() == best
    torch.testing.assert_close(run.logits_NC, lvlm.run(request.keep_frames(torch.tensor(best))).logits_NC)


def test_kept_frames_stand_in_the_order_of_the_video(device: str) -> None:
    lvlm = LVLM.random(device=device)
    for seed in range(4):
        run = lvlm.run(random_request(lvlm.config, frames=5, max_new_tokens=1, seed=seed), [SeViLA(3, yes_token=YES)])
        assert run.trace.frame_index is not None
        assert run.trace.frame_index.tolist() == sorted(run.trace.frame_index.tolist())


def test_only_candidates_are_asked_about(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.run(random_request(lvlm.config, frames=9, max_new_tokens=1), [SeViLA(2, 3, YES)])
    assert len(run.trace.scoring) == 3
    assert run.trace.frame_index is not None
    assert {*run.trace.frame_index.tolist()} < {1, 4, 7}


def test_every_candidate_costs_an_encoding_and_a_prefill(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=4, max_new_tokens=1), [SeViLA(1, yes_token=YES)]).trace
    assert [(each.frames, each.llm_tokens[0], each.output_tokens) for each in trace.scoring] == [(1, 80, 0)] * 4


def test_the_question_about_the_frame_stands_behind_the_prompt(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=3, max_new_tokens=1)
    setting = SeViLA(1, yes_token=YES, question=(5, 6, 7))
    asked = setting.begin(lvlm.begin(request, [])).about(request, 1)
    assert torch.equal(asked.frames_F3HW[0], request.frames_F3HW[1])
    assert asked.prompt_N.tolist() == [*request.keep_frames(torch.tensor([1])).prompt_N.tolist(), 5, 6, 7]
    trace = lvlm.run(request, [setting]).trace
    assert [each.llm_tokens[0] for each in trace.scoring] == [83] * 3
    assert trace.llm_tokens[0] == 80  # the answer is to the prompt alone


def test_nobody_is_asked_where_all_candidates_are_kept(device: str) -> None:
    lvlm = LVLM.random(device=device)
    run = lvlm.run(random_request(lvlm.config, frames=4, max_new_tokens=1), [SeViLA(4, yes_token=YES)])
    assert run.trace.scoring == []
    assert run.trace.frames == 4


def test_a_token_that_the_vocabulary_lacks_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="yes_token must be one of 128 tokens, got 4273"):
        lvlm.run(random_request(lvlm.config), [SeViLA()])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_frames": 0}, "max_frames must be at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"yes_token": -1}, "yes_token must be at least 0, got -1"),
        ({"score": "loss"}, "score must be logit or probability, got 'loss'"),
    ],
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SeViLA(**wrong)  # type: ignore[arg-type]
