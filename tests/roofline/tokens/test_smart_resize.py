"""Qwen's rule, for images and videos: as published, as in the torch reference, and within its limits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens.smart_resize import MOST_ASPECT, smart_resize
from lvlm_atlas.roofline.tokens.video_clip_resize import video_clip_resize
from lvlm_atlas.roofline.tokens.video_smart_resize import video_smart_resize

LEAST, MOST = 4 * 28**2, 16_384 * 28**2
SIZES = st.tuples(st.integers(1, 8000), st.integers(1, 8000)).filter(lambda size: max(size) <= MOST_ASPECT * min(size))


def tokens(*size):
    return smart_resize([size], patch=14, merge=2, min_pixels=LEAST, max_pixels=MOST).llm_token


@pytest.mark.parametrize(
    ("patch", "least", "most"),
    [(14, 3136, 12_845_056), (14, 3136, 1_003_520), (14, 3136, 78_400), (16, 65_536, 16_777_216)],
)
def test_smart_resize_counts_as_qwens_processor(published, sizes, pixels, patch, least, most):
    make = published("models.qwen2_vl.image_processing_pil_qwen2_vl", "Qwen2VLImageProcessorPil")
    processor = make(min_pixels=least, max_pixels=most, patch_size=patch)

    def count(width, height):
        return smart_resize([(width, height)], patch=patch, merge=2, min_pixels=least, max_pixels=most).encoder_token

    taken = [(width, height) for width, height in sizes if max(width, height) <= MOST_ASPECT * min(width, height)]
    assert len(taken) > 400
    for width, height in taken:
        assert count(width, height) == processor.get_number_of_image_patches(height, width), (width, height)
    for width, height in [(336, 336), (200, 61), (97, 300), (31, 450)]:
        _, rows, columns = processor(pixels(width, height))["image_grid_thw"][0]
        assert count(width, height) == rows * columns


def test_windows_hold_the_tokens_that_qwen2_5_puts_in_them(published):
    cut = published("vision_utils", "get_vision_window_index")
    import torch

    for rows, columns in [(1, 1), (4, 4), (3, 9), (12, 8), (39, 69), (5, 200)]:
        _, ends = cut(torch.tensor([[1, 2 * rows, 2 * columns]]), 2, 112, 14)
        lengths = torch.as_tensor(ends).unique_consecutive().diff()
        limits = {"min_pixels": 1, "max_pixels": 10**9}
        visual = smart_resize([(28 * columns, 28 * rows)], patch=14, merge=2, **limits, window=4)
        assert visual.patches[0].window_pair == int((lengths.long() ** 2).sum())


@pytest.mark.parametrize("frames", [2, 8, 120, 300, 768])
def test_frames_of_qwen3_share_a_budget_as_its_capped_processor_has_it(published, sizes, frames):
    count = published("models.qwen3_vl.video_processing_qwen3_vl", "Qwen3VLVideoProcessor").get_num_of_video_patches
    least, total = 128 * 32**2, 115_200 * 32**2
    size = {"shortest_edge": least, "longest_edge": 2 * total}
    constants = SimpleNamespace(
        size=size, patch_size=16, merge_size=2, temporal_patch_size=2, max_video_tokens=768, cap_pixels_per_frame=True
    )
    # The class asks the least of the clip, qwen-vl-utils and we of the frame: compare where it does not matter.
    taken = [size for size in sizes if min(size) >= 32 and max(size) <= 100 * min(size)]
    taken = [(width, height) for width, height in taken if width * height >= 1.2 * least]
    assert len(taken) > 200
    for width, height in taken:
        limits = {"min_pixels": least, "max_pixels": 768 * 32**2, "total_pixels": total}
        visual = video_smart_resize(width, height, frames, patch=16, merge=2, temporal=2, **limits)
        assert visual.encoder_token == count(constants, frames, height, width), (width, height)


@pytest.mark.parametrize("frames", [2, 3, 5, 10, 40, 768])
def test_servers_bound_the_clip_of_qwen3_and_not_its_frames(published, sizes, frames):
    resize = published("models.qwen3_vl.video_processing_qwen3_vl", "smart_resize")
    limits = {"min_pixels": 4096, "max_pixels": 25_165_824}
    taken = [(width, height) for width, height in sizes if max(width, height) <= 100 * min(width, height)]
    assert len(taken) > 300
    for width, height in taken:
        rows, columns = (side // 32 for side in resize(frames, height, width, temporal_factor=2, factor=32, **limits))
        visual = video_clip_resize(width, height, frames, patch=16, merge=2, temporal=2, **limits)
        assert visual.llm_token == -(-frames // 2) * rows * columns, (width, height)
    with pytest.raises(AtlasError, match="2 share a patch"):
        video_clip_resize(640, 480, 1, patch=16, merge=2, temporal=2, **limits)


@given(side=st.integers(56, 350), other=st.integers(56, 350), grown=st.integers(2, 10))
def test_a_larger_image_of_the_same_aspect_never_costs_less_within_the_limits(side, other, grown):
    assert tokens(side, other) <= tokens(side * grown, other * grown)


@given(size=SIZES)
def test_an_image_costs_as_many_tokens_as_the_limits_allow(size):
    assert LEAST <= tokens(*size) * 28**2 <= MOST


@pytest.mark.parametrize(("side", "token"), [(42, 2), (70, 2), (98, 4), (126, 4)])
def test_halves_round_to_even(side, token):
    limits = {"min_pixels": 1, "max_pixels": MOST}
    assert smart_resize([(side, 28)], patch=14, merge=2, **limits).llm_token == token


@given(size=SIZES, frames=st.integers(1, 4000))
def test_the_torch_reference_has_the_same_rule(resolution, size, frames):
    width, height = size
    assert tokens(width, height) == resolution.image_tokens(height, width)
    limits = {"min_pixels": 128 * 28**2, "max_pixels": 768 * 28**2, "total_pixels": 115_200 * 28**2}
    video = video_smart_resize(width, height, frames, patch=14, merge=2, temporal=2, **limits)
    assert video.llm_token == resolution.video_tokens(height, width, frames)
