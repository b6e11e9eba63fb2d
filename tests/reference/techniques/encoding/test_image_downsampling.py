"""Image downsampling."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.resolution import smart_resize
from lvlm_atlas.reference.techniques.encoding.image_downsampling import ImageDownsampling, target_size
from lvlm_atlas.roofline.tokens.smart_resize import token_grid

NO_LEAST, NO_MOST = 1, 10**12
sides = st.integers(28, 2800)


def test_a_share_is_of_the_pixels_and_not_of_a_side() -> None:
    assert target_size(560, 1120, 28, 0.25, NO_LEAST, NO_MOST) == (280, 560)
    # √0.5 of 20 tokens are 14.1, of 40 they are 28.3.
    assert target_size(560, 1120, 28, 0.5, NO_LEAST, NO_MOST) == (14 * 28, 28 * 28)


@given(sides, sides, st.sampled_from([1, 8, 28, 32]), st.integers(28 * 28 * 4, 10**6))
def test_no_frame_exceeds_the_limit(height: int, width: int, factor: int, most: int) -> None:
    rows, columns = target_size(height, width, factor, 1.0, NO_LEAST, most)
    assert rows % factor == columns % factor == 0
    assert rows * columns <= most or min(rows, columns) == factor


@given(sides, sides, st.sampled_from([8, 28, 32]), st.integers(1, 10**6), st.integers(1, 10**6))
def test_limits_alone_are_those_of_the_published_processor(
    height: int, width: int, factor: int, least: int, more: int
) -> None:
    limits = (least, least + more)
    assert target_size(height, width, factor, 1.0, *limits) == smart_resize(height, width, factor, limits)


def test_the_limit_holds_for_the_rounded_frame() -> None:
    """1000 × 1003 pixels are fewer than 1280 tokens' worth, but round to 36 × 36 tokens, which are more."""
    most = 1280 * 28 * 28
    assert most > 1000 * 1003
    rows, columns = target_size(1000, 1003, 28, 1.0, NO_LEAST, most)
    assert (rows // 28) * (columns // 28) <= 1280


def test_a_frame_below_the_least_grows_and_rounds_up() -> None:
    assert target_size(56, 56, 28, 1.0, 3 * 28 * 28 * 4, NO_MOST) == (112, 112)  # √3 of 2 tokens are 3.5


def test_the_least_goes_before_the_share_and_the_most() -> None:
    assert target_size(560, 560, 28, 0.01, 100 * 28 * 28, NO_MOST) == (280, 280)
    assert target_size(560, 560, 28, 1.0, 100 * 28 * 28, 50 * 28 * 28) == (280, 280)


def test_every_side_keeps_a_token() -> None:
    rows, columns = target_size(28, 2800, 28, 0.05, NO_LEAST, NO_MOST)
    assert rows == 28
    assert columns < 2800


def test_a_whole_share_changes_no_whole_frame() -> None:
    assert target_size(336, 448, 28, 1.0, NO_LEAST, NO_MOST) == (336, 448)
    assert target_size(337, 449, 1, 1.0, NO_LEAST, NO_MOST) == (337, 449)


@given(sides, sides, st.sampled_from([1, 28]), st.floats(0.02, 0.98))
def test_the_planner_resizes_a_frame_to_the_same_size(height: int, width: int, factor: int, share: float) -> None:
    rows, columns = (max(1, round(side / factor)) for side in (height, width))
    pixels = share * (rows * columns * factor**2)
    grid = token_grid(width, height, factor=factor, min_pixels=pixels, max_pixels=pixels, kind="image")
    size = target_size(height, width, factor, share, NO_LEAST, NO_MOST)
    assert (size[1] // factor, size[0] // factor) == grid


@pytest.mark.parametrize("preset", ["tiny-window", "tiny-deepstack"])
def test_a_quarter_of_the_pixels_leaves_whole_tokens_in_every_layer(preset: str, device: str) -> None:
    lvlm = LVLM.random(preset, device=device)
    request = random_request(lvlm.config, frames=4)
    before, after = (lvlm.run(request, stack).trace for stack in ([], [ImageDownsampling(0.25)]))
    (height, width), factor = lvlm.config.vision.frame_size, lvlm.config.vision.factor
    rows, columns = (size // factor for size in target_size(height, width, factor, 0.25, NO_LEAST, NO_MOST))
    units = before.llm_vision_tokens[0] // ((height // factor) * (width // factor))
    assert after.llm_vision_tokens == [units * rows * columns] * len(after.llm_vision_tokens)
    assert after.encoder_tokens[0] < before.encoder_tokens[0]
    assert after.pixels == 4 * rows * columns * factor**2


def test_the_model_resizes_a_frame_no_second_time(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config, frames=2)
    factor = lvlm.config.vision.factor
    size = target_size(*request.frames_F3HW.shape[-2:], factor, 0.5, NO_LEAST, NO_MOST)
    small = functional.interpolate(request.frames_F3HW, size, mode="bicubic", antialias=True)
    expected = lvlm.run(replace(request, frames_F3HW=small))
    assert torch.equal(lvlm.run(request, [ImageDownsampling(0.5)]).logits_NC, expected.logits_NC)


def test_a_tower_of_one_size_resizes_the_frames_back(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    before, after = (lvlm.run(request, stack) for stack in ([], [ImageDownsampling(0.25)]))
    assert after.trace.pixels * 4 <= before.trace.pixels
    assert after.trace.llm_tokens == before.trace.llm_tokens
    assert not torch.equal(after.logits_NC, before.logits_NC)  # the detail is gone all the same


def test_keeping_everything_changes_nothing(device: str) -> None:
    for preset in ("tiny", "tiny-window", "tiny-deepstack"):
        lvlm = LVLM.random(preset, device=device)
        request = random_request(lvlm.config)
        assert torch.equal(lvlm.run(request, [ImageDownsampling(1.0)]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize("setting", [{"keep_ratio": 0.0}, {"keep_ratio": 1.01}, {"min_pixels": 0}, {"max_pixels": 0}])
def test_parameters_outside_their_range_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        ImageDownsampling(**setting)
