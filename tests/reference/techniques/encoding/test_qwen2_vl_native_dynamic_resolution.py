"""Qwen2-VL's native dynamic resolution."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lvlm_atlas.reference.lvlm import LVLM, Refusal, Request, random_request
from lvlm_atlas.reference.lvlm.contexts import Pixels
from lvlm_atlas.reference.techniques.encoding.qwen2_vl_native_dynamic_resolution import (
    Qwen2VLNativeDynamicResolution,
    _Acting,
)
from lvlm_atlas.roofline.tokens.smart_resize import token_grid

NO_LEAST, NO_MOST = 1, 10**12


def size(height: int, width: int, factor: int = 28, pixels: tuple[int, int] = (NO_LEAST, NO_MOST)) -> tuple[int, int]:
    """Height and width that a frame is resized to; no pixel is looked at."""
    frames = torch.empty(1, 3, height, width, device="meta")
    rows, columns = _Acting(pixels, factor).resize(Pixels(frames)).shape[-2:]
    return rows, columns


def test_halves_round_to_the_even_number_of_tokens() -> None:
    assert size(42, 70) == (56, 56)  # 1.5 and 2.5 tokens
    assert size(98, 126) == (112, 112)  # 3.5 and 4.5


def test_within_the_limits_a_picture_keeps_its_size() -> None:
    assert size(336, 448, pixels=(3136, 12_845_056)) == (336, 448)
    assert size(340, 440, pixels=(3136, 12_845_056)) == (336, 448)


@given(st.integers(28, 1500), st.integers(28, 1500), st.sampled_from([1, 8, 28, 32]), st.integers(3136, 10**6))
def test_a_large_picture_stays_within_the_limit(height: int, width: int, factor: int, most: int) -> None:
    rows, columns = size(height, width, factor, (1, most))
    assert rows % factor == columns % factor == 0
    assert rows * columns <= most or min(rows, columns) == factor
    assert (
        max(rows / columns * width / height, columns / rows * height / width) <= 3 or min(rows, columns) <= 2 * factor
    )


def test_the_rounded_picture_is_held_against_the_limits() -> None:
    """1000 × 1003 pixels are fewer than 1280 tokens' worth, but round to 36 × 36 tokens, which are more."""
    rows, columns = size(1000, 1003, pixels=(1, 1280 * 784))
    assert (rows // 28, columns // 28) == (35, 35)


def test_a_small_picture_grows_and_rounds_up() -> None:
    assert size(30, 60, pixels=(3136, NO_MOST)) == (56, 84)  # times √(3136 / 1800): 39.6 and 79.2


def test_no_side_is_lost() -> None:
    assert size(28, 2800, pixels=(1, 28 * 28 * 5)) == (28, 28 * 22)


@given(st.integers(28, 1500), st.integers(28, 1500), st.integers(1, 10**6), st.integers(0, 10**6))
def test_the_planner_resizes_a_picture_to_the_same_size(height: int, width: int, least: int, more: int) -> None:
    rows, columns = size(height, width, pixels=(least, least + more))
    grid = token_grid(width, height, factor=28, min_pixels=least, max_pixels=least + more, kind="image")
    assert (columns // 28, rows // 28) == grid


@pytest.mark.parametrize("preset", ["tiny-window", "tiny-deepstack"])
@pytest.mark.parametrize(("most", "grid"), [(1000, (3, 4)), (500, (2, 3)), (10_000, (5, 6))])
def test_the_limit_sets_the_number_of_tokens(preset: str, device: str, most: int, grid: tuple[int, int]) -> None:
    """40 × 48 pixels are 5 × 6 tokens of 8 × 8; two frames share theirs."""
    lvlm = LVLM.random(preset, device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=4), [Qwen2VLNativeDynamicResolution(1, most)]).trace
    assert trace.llm_vision_tokens == [2 * grid[0] * grid[1]] * 4
    assert trace.encoder_tokens == [4 * grid[0] * grid[1]] * 5
    assert trace.pixels == 4 * 64 * grid[0] * grid[1]


def test_pictures_of_other_sizes_keep_theirs(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    asked = random_request(lvlm.config, frames=2)
    images: tuple[Tensor, ...] = (torch.randn(3, 40, 48), torch.randn(3, 17, 30))
    still = lvlm.config.placeholders[1]
    prompt = torch.where(asked.prompt_N == asked.image_token_id, still, asked.prompt_N)
    request = Request(frames_F3HW=images, prompt_N=prompt, image_token_id=still, max_new_tokens=2)
    trace = lvlm.run(request, [Qwen2VLNativeDynamicResolution(1, 1000)]).trace
    assert trace.llm_vision_tokens[0] == 3 * 4 + 2 * 4  # 17 × 30 is 2 × 4 tokens, and below the limit


def test_the_frames_are_interpolated_once(device: str) -> None:
    lvlm = LVLM.random("tiny-window", device=device)
    request = random_request(lvlm.config, frames=2)
    small = functional.interpolate(request.frames_F3HW, (24, 32), mode="bicubic", antialias=True)
    expected = lvlm.run(replace(request, frames_F3HW=small)).logits_NC
    assert torch.equal(lvlm.run(request, [Qwen2VLNativeDynamicResolution(1, 1000)]).logits_NC, expected)


def test_a_tower_of_one_size_saves_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=2)
    before, after = (lvlm.run(request, stack) for stack in ([], [Qwen2VLNativeDynamicResolution(1, 500)]))
    assert after.trace.pixels <= 1000
    assert after.trace.llm_tokens == before.trace.llm_tokens
    assert not torch.equal(after.logits_NC, before.logits_NC)  # the detail is gone all the same


@pytest.mark.parametrize("setting", [{"min_pixels": 0}, {"max_pixels": 0, "min_pixels": 1}])
def test_parameters_outside_their_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Qwen2VLNativeDynamicResolution(**setting)


def test_limits_that_cross_are_refused() -> None:
    with pytest.raises(Refusal, match="min_pixels must be at most max_pixels, 100, got 3136"):
        Qwen2VLNativeDynamicResolution(max_pixels=100)
