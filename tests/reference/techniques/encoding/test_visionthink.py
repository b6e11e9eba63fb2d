"""VisionThink: small frames first, large ones on request, never a third round."""

from __future__ import annotations

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.techniques.encoding.visionthink import VisionThink, asks_for_more, shrink


def first_token(lvlm: LVLM, scale: int = 2) -> int:
    """A token of the first answer."""
    (only,) = lvlm.run(random_request(lvlm.config, frames=2), [VisionThink(scale)]).rounds
    return int(only.result.tokens_N[-1])


@pytest.mark.parametrize(
    ("size", "scale", "expected"), [((8, 6), 2, (4, 3)), ((9, 5), 2, (5, 3)), ((3, 3), 4, (1, 1)), ((7, 5), 1, (7, 5))]
)
def test_half_of_each_side_is_a_quarter_of_the_pixels(
    size: tuple[int, int], scale: int, expected: tuple[int, int]
) -> None:
    frames = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    small = shrink(frames, scale)
    (image,) = shrink((frames[0],), scale)
    assert isinstance(small, torch.Tensor)
    assert torch.equal(image, small[0])
    assert small.shape == (2, 3, *expected)
    if scale == 1:
        assert torch.equal(small, frames)


def test_shrinking_keeps_an_even_picture() -> None:
    torch.testing.assert_close(shrink(torch.full((1, 3, 12, 10), 0.7), 2), torch.full((1, 3, 6, 5), 0.7))


def test_a_call_counts_wherever_it_stands() -> None:
    assert asks_for_more(torch.tensor([4, 9, 2]), 9)
    assert not asks_for_more(torch.tensor([4, 9, 2]), 7)


def test_an_answer_without_a_call_is_that_of_the_small_frames(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config, frames=2)
    result = lvlm.run(request, [VisionThink()])
    (only,) = result.rounds
    assert torch.equal(only.request.frames_F3HW, shrink(request.frames_F3HW, 2))
    assert torch.equal(result.logits_NC, lvlm.run(only.request).logits_NC)
    assert result.trace.vision_tokens < lvlm.run(request).trace.vision_tokens


def test_there_is_no_third_round(device: str) -> None:
    """The second answer may hold the call, too: it counts."""
    lvlm = LVLM.random(device=device)
    lvlm.language_model.lm_head.weight.data.zero_()  # every token ties, so all answers are token 0
    result = lvlm.run(random_request(lvlm.config, frames=2), [VisionThink(call_token=0)])
    assert len(result.rounds) == 2
    assert int(result.tokens_N[0]) == 0


def test_at_scale_1_there_is_nothing_more_to_ask_for(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=2)
    call = int(lvlm.run(request).tokens_N[-1])
    assert len(lvlm.run(request, [VisionThink(1, call)]).rounds) == 1


def test_a_request_that_asks_for_more_costs_both_rounds(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config, frames=2)
    plain = lvlm.run(request)
    result = lvlm.run(request, [VisionThink(call_token=first_token(lvlm))])
    small, large = (each.result.trace for each in result.rounds)
    assert torch.equal(result.tokens_N, plain.tokens_N)
    assert large.llm_vision_tokens == plain.trace.llm_vision_tokens
    assert result.trace.vision_tokens == small.vision_tokens + large.vision_tokens > plain.trace.vision_tokens
    assert result.trace.output_tokens == small.output_tokens + large.output_tokens
    assert small.pixels / small.pixels_in == 0.25


def test_an_encoder_of_one_size_saves_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1)
    assert lvlm.run(request, [VisionThink()]).trace.llm_tokens == lvlm.run(request).trace.llm_tokens


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("scale", 0, "in 1..3"), ("scale", 5, "in 1..3"), ("call_token", -1, "at least 0")],
)
def test_illegal_parameters_are_refused(name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be {message}, got {value}"):
        VisionThink(**{name: value})
