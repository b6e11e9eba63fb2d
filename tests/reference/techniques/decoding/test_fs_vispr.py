"""FS-VisPR: fast where it is sure, slow in variants where it is not, and fast again where programs fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lvlm_atlas.reference.flow.request import Request, Result
from lvlm_atlas.reference.flow.trace import Trace
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.decoding.fs_vispr import (
    FsVisPr,
    about_clips,
    confidence,
    most_confident,
    run_variants,
)

Ask = Callable[[Request], Result]


def answer(*probability: float) -> Result:
    logits = torch.tensor([[p, 1 - p] for p in probability]).log()
    return Result(tokens_N=torch.zeros(len(probability), dtype=torch.long), logits_NC=logits, trace=Trace())


def test_confidence_is_the_geometric_mean_of_the_probabilities() -> None:
    assert confidence(answer(0.5, 0.32)) == pytest.approx(0.4)
    assert confidence(answer(*[0.9] * 50)) == pytest.approx(0.9)


def test_the_most_confident_variant_counts() -> None:
    answers = [answer(0.3), answer(0.8), answer(0.6), answer(0.8)]
    assert most_confident(answers) is answers[1]
    assert most_confident([]) is None


def test_variants_that_raise_or_return_nothing_are_left_out() -> None:
    good = answer(0.5)

    def program(value: int) -> Result | None:
        if value == 1:
            raise ZeroDivisionError
        return None if value == 2 else good

    assert run_variants(program, (1, 2, 3)) == [good]


def test_clips_are_the_best_frames_in_their_order_in_time() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, frames=4)
    asked: list[Request] = []

    def ask(about: Request) -> Result:
        asked.append(about)
        return answer(0.5)

    about_clips(torch.tensor([0.1, 0.9, 0.3, 0.8]))(request, 2, ask)
    assert torch.equal(torch.as_tensor(asked[0].frames_F3HW), torch.as_tensor(request.frames_F3HW)[[1, 3]])
    assert torch.equal(asked[0].text_N, request.text_N)


@pytest.mark.parametrize(("distance", "rounds"), [(-1e-6, 1), (1e-6, 3)])
def test_a_fast_answer_is_kept_from_the_threshold_on(distance: float, rounds: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=4, max_new_tokens=4)
    plain = lvlm.run(request)
    result = lvlm.run(request, [FsVisPr(threshold=confidence(plain) + distance, top_k=(1, 2))])
    assert len(result.rounds) == rounds
    assert [len(each.request.frames_F3HW) for each in result.rounds] == [4, 1, 2][:rounds]
    if rounds == 1:
        assert torch.equal(result.tokens_N, plain.tokens_N)
    else:
        slow = [each.result for each in result.rounds[1:]]
        assert confidence(result) == max(map(confidence, slow))
        assert result.trace.output_tokens == 12


def test_a_difficult_question_skips_the_fast_path(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=3, max_new_tokens=2)
    technique = FsVisPr(threshold=0, top_k=(1, 2), router=lambda asked: len(asked.frames_F3HW) == 3)
    assert [len(each.request.frames_F3HW) for each in lvlm.run(request, [technique]).rounds] == [1, 2]
    easy = replace(technique, router=lambda _: False)
    assert [len(each.request.frames_F3HW) for each in lvlm.run(request, [easy]).rounds] == [3]


@pytest.mark.parametrize("difficult", [False, True])
def test_where_every_variant_fails_the_fast_answer_stands(difficult: bool, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=3, max_new_tokens=3)

    def broken(_request: Request, _top_k: int, _ask: Ask) -> Result | None:
        raise NameError("the program names a module that is not there")

    technique = FsVisPr(threshold=1, top_k=(1, 2), router=lambda _: difficult, program=broken)
    result = lvlm.run(request, [technique])
    assert torch.equal(result.tokens_N, lvlm.run(request).tokens_N)
    assert len(result.rounds) == 1


def test_a_video_that_would_be_retrieved_whole_is_not_asked_about_twice(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=2)
    result = lvlm.run(request, [FsVisPr(threshold=1, top_k=(2, 5))])
    assert len(result.rounds) == 1


def test_a_program_can_be_given(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=3, max_new_tokens=2)

    def first_frames(asked: Request, top_k: int, ask: Ask) -> Result | None:
        return ask(asked.keep_frames(torch.arange(top_k)))

    result = lvlm.run(request, [FsVisPr(threshold=1, top_k=(1, 2), program=first_frames)])
    shown = [torch.as_tensor(each.request.frames_F3HW) for each in result.rounds[1:]]
    assert all(torch.equal(frames, torch.as_tensor(request.frames_F3HW)[: len(frames)]) for frames in shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\]"),
        ({"top_k": ()}, "top_k must be rising"),
        ({"top_k": (0, 2)}, "top_k must be rising"),
        ({"top_k": (3, 3)}, "top_k must be rising"),
    ],
)
def test_illegal_parameters_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FsVisPr(**arguments)  # type: ignore[arg-type]
