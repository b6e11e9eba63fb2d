"""How many frames of a video are read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.fault import AtlasError
from lvlm_atlas.roofline.tokens.sampling import sampled_frames


@pytest.mark.parametrize(
    ("duration_s", "sample_fps", "expected"),
    [(5, 2, 10), (60, 2, 120), (1, 2, 4), (0.1, 2, 2), (3600, 2, 768), (5.5, 1, 4)],
)
def test_frames_are_read_in_pairs_as_qwen_vl_utils_reads_them(duration_s, sample_fps, expected):
    limits = {"min_frames": 4, "max_frames": 768, "multiple": 2}
    assert sampled_frames(duration_s, sample_fps=sample_fps, source_fps=30, **limits) == expected


def test_the_least_is_rounded_up_to_the_multiple_and_the_most_down():
    rates = {"sample_fps": 0.1, "source_fps": 30, "multiple": 2}
    assert sampled_frames(10, **rates, min_frames=3, max_frames=9) == 4
    assert sampled_frames(1000, **rates, min_frames=3, max_frames=9) == 8


def test_a_family_that_reads_a_fixed_number_of_frames_gets_it_or_all_there_are():
    limits = {"min_frames": 8, "max_frames": 8, "multiple": 1}
    assert sampled_frames(60, sample_fps=2, source_fps=30, **limits) == 8
    assert sampled_frames(1, sample_fps=2, source_fps=5, **limits) == 5


@given(
    frames=st.integers(2, 100_000), source_fps=st.sampled_from([23.976, 24, 25, 29.97, 30, 60]), rate=st.floats(0.1, 60)
)
def test_sampling_agrees_with_the_reference(resolution, frames, source_fps, rate):
    limits = {"min_frames": 4, "max_frames": 768, "multiple": 2}
    found = sampled_frames(frames / source_fps, sample_fps=rate, source_fps=source_fps, **limits)
    assert found == resolution.sampled_frames(frames, source_fps, rate)


@pytest.mark.parametrize(
    ("duration_s", "rates", "message"),
    [(0, (2, 30), "duration_s 0"), (math.inf, (2, 30), "duration_s inf"), (5, (0, 30), "sample_fps 0"),
     (5, (2, math.nan), "source_fps nan"), (0.02, (2, 30), "it holds 1 frame")],
)  # fmt: skip
def test_a_video_that_cannot_be_sampled_is_refused(duration_s, rates, message):
    limits = {"min_frames": 4, "max_frames": 768, "multiple": 2}
    with pytest.raises(AtlasError, match=message):
        sampled_frames(duration_s, sample_fps=rates[0], source_fps=rates[1], **limits)
