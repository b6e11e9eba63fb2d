"""FOCUS: clips as arms, bounds on their reward, a closer look at the best, and the draw."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.techniques.encoding.focus import (
    LEAST_VARIANCE,
    Focus,
    centre,
    coarse_places,
    divide,
    draw_in_arm,
    estimate,
    fine_places,
    frame_rate,
    upper_bounds,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Scorer:
    """Rewards by place, and what was asked for."""

    def __init__(self, reward: dict[int, float] | None = None, otherwise: float = 0.0) -> None:
        self.reward, self.otherwise = reward or {}, otherwise
        self.asked: list[list[int]] = []

    def __call__(self, places: list[int]) -> dict[int, float]:
        self.asked.append(places)
        return {place: self.reward.get(place, self.otherwise) for place in places}


def test_an_hour_at_two_frames_a_second_has_an_arm_every_sixteen_seconds() -> None:
    division = divide(7200, 2.0, 16.0, 1.0, 8)
    assert len(division.arms) == 225
    assert {len(arm) for arm in division.arms} == {32}
    assert (division.half_window, division.spacing) == (16, 2)


def test_a_short_video_has_eight_arms_and_samples_no_sparser_than_they_lie() -> None:
    division = divide(24, 1.0, 16.0, 8.0, 8)
    assert [*map(len, division.arms)] == [3] * 8
    assert division.half_window == 2  # 24 s / 8 / 2 = 1.5, halves to even
    assert division.spacing == 3


def test_frames_that_are_left_over_belong_to_no_arm() -> None:
    division = divide(27, 1.0, 16.0, 1.0, 8)
    assert division.arms[0] == range(3)
    assert division.arms[-1] == range(24, 27)
    division = divide(23, 1.0, 16.0, 1.0, 8)
    assert len(division.arms) == 11
    assert division.arms[-1] == range(20, 22)
    assert centre(division.arms[-1]) == 20


@given(frames=st.integers(1, 900), rate=st.floats(0.1, 60), arms=st.integers(1, 20), every=st.floats(0.1, 40))
def test_arms_are_equal_neighbours_from_the_start(frames: int, rate: float, arms: int, every: float) -> None:
    division = divide(frames, rate, every, 1.0, arms)
    joined = [place for arm in division.arms for place in arm]
    assert joined == [*range(len(joined))]
    assert frames - len(joined) < len(division.arms)
    assert len({len(arm) for arm in division.arms}) == 1
    assert min(division.half_window, division.spacing) >= 1


def test_an_arm_is_looked_at_in_its_centre_and_elsewhere_at_random() -> None:
    drawn = [coarse_places(range(4, 10), 2, generator(seed)) for seed in range(300)]
    assert {places[0] for places in drawn} == {6}  # of 6 and 7 the earlier
    assert all(len({*places}) == 3 for places in drawn)
    others = Counter(place for places in drawn for place in places[1:])
    assert {*others} == {4, 5, 7, 8, 9}
    assert min(others.values()) > 80
    assert sorted(coarse_places(range(2), 5, generator())) == [0, 1]


def test_the_bound_is_mean_spread_and_count() -> None:
    bounds = upper_bounds([torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.5])])
    log = math.log(4)
    variance = 0.08 / 3  # divided by three samples, not by two
    assert bounds.tolist() == pytest.approx(
        [0.4 + math.sqrt(2 * log * variance / 3) + log, 0.5 + math.sqrt(2 * log * LEAST_VARIANCE) + 3 * log]
    )


def test_samples_that_agree_still_have_a_least_variance() -> None:
    (bound,) = upper_bounds([torch.tensor([0.5, 0.5])]).tolist()
    log = math.log(2)
    assert bound == pytest.approx(0.5 + math.sqrt(2 * log * 1e-6 / 2) + 3 * log / 2, abs=1e-12)
    assert upper_bounds([torch.tensor([0.3])]).tolist() == pytest.approx(
        [0.3]
    )  # of one sample in all there is no doubt


def test_close_samples_lie_evenly_and_at_random_in_the_window() -> None:
    division = divide(64, 1.0, 8.0, 1.0, 8)
    arm = division.arms[2]
    assert (arm, centre(arm), division.half_window) == (range(16, 24), 19, 4)
    # Nine samples in 15 … 23, none at random: the middles of nine parts of one frame.
    assert fine_places([arm], division, 64, (), 1.0, generator()) == [*range(15, 24)]
    # Three of them, one every 3 s: the middles of three parts.
    assert fine_places([arm], divide(64, 1.0, 8.0, 3.0, 8), 64, (), 1.0, generator()) == [16, 19, 22]
    # Half of them, 4, at 15 + 9 / 4 · (i + 1/2); 16 was scored before, so it is left out and not replaced.
    even = {16, 18, 20, 22}
    for seed in range(20):
        places = fine_places([arm], division, 64, {16}, 0.5, generator(seed))
        assert even - {16} < {*places} <= {*range(15, 24)} - {16}
        assert len(places) == 3 + 5
    assert fine_places([division.arms[0]], division, 64, (), 1.0, generator()) == [
        *range(8)
    ]  # cut at the video's start


def test_the_estimate_is_the_nearest_sample() -> None:
    known = {6: 0.25, 2: 1.5, 8: 0.75}
    assert estimate(torch.arange(10), known).tolist() == [1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25, 0.75, 0.75]


def test_frames_near_a_good_sample_are_drawn_more_often() -> None:
    known = {1: 0.0, 8: 0.1}
    drawn = Counter(draw_in_arm(range(10), known, (), 1, 0, 0.5, generator(seed))[0] for seed in range(1500))
    good = sum(drawn[place] for place in range(5, 10)) / 1500
    # Estimates are stretched to 0 and 1: five frames of weight e² to five of weight 1.
    assert good == pytest.approx(math.exp(2) / (math.exp(2) + 1), abs=0.03)


def test_all_are_as_likely_where_estimates_agree() -> None:
    drawn = Counter(draw_in_arm(range(4), {1: 0.7}, (), 1, 0, 0.06, generator(seed))[0] for seed in range(1000))
    assert all(drawn[place] == pytest.approx(250, abs=60) for place in range(4))


def test_a_drawn_frame_keeps_away_from_those_chosen_before() -> None:
    for seed in range(20):
        drawn = draw_in_arm(range(10, 20), {14: 1.0}, [12, 25], 9, 3, 0.06, generator(seed))
        assert sorted(drawn) == [15, 16, 17, 18, 19]  # 10 … 14 lie less than three from 12


def test_the_gap_gives_way_where_nothing_else_is_left() -> None:
    assert sorted(draw_in_arm(range(3), {1: 1.0}, [1], 2, 5, 0.06, generator())) == [0, 2]
    assert draw_in_arm(range(3), {1: 1.0}, [0, 1, 2], 2, 0, 0.06, generator()) == []


def test_the_gap_is_a_share_of_the_spacing_within_limits() -> None:
    technique = Focus(max_frames=64)
    assert [technique._gap_s(second) for second in (12.8, 64.0, 3600.0)] == [0.0, 0.25, 1.0]
    assert technique._gap_s(12.9) == pytest.approx(0.25 * 12.9 / 64)


def test_what_is_drawn_keeps_away_from_the_best_scored_frame() -> None:
    """Of 40 frames in 10 s, two are 5 s apart on average, so that the second keeps 1 s, four frames, away."""
    technique = Focus(max_frames=2, min_arms=1, extra_samples=0, top_ratio=0.5, temperature=1e-3)
    for seed in range(20):
        first, second = technique.choose(40, 4.0, Scorer({19: 1.0}), generator(seed))
        assert first == 19
        assert abs(second - 19) >= 4
    near = replace(technique, gap_ratio=0.0)
    assert any(abs(near.choose(40, 4.0, Scorer({19: 1.0}), generator(seed))[1] - 19) < 4 for seed in range(20))


def test_the_best_scored_frames_are_taken_wherever_they_lie() -> None:
    technique = Focus(max_frames=10, top_ratio=1.0, fine_every_s=1.0)
    scorer = Scorer({centre(arm): 0.9 for arm in divide(800, 1.0, 16.0, 1.0, 8).arms[:3]}, 0.1)
    chosen = technique.choose(800, 1.0, scorer, generator())
    assert chosen[:3] == [7, 23, 39]


def test_more_frames_are_drawn_where_rewards_are_high() -> None:
    peak = dict.fromkeys(range(400, 480), 1.0)
    chosen = Focus(max_frames=32).choose(1600, 2.0, Scorer(peak, 0.1), generator())
    assert len({*chosen}) == 32
    assert sum(place in peak for place in chosen) > 4 * 32 * len(peak) / 1600


def test_what_is_left_after_a_share_is_dealt_out_from_the_best_arm_on() -> None:
    """Three frames from two arms: two from the better one."""
    reward = dict.fromkeys(range(20, 30), 1.0) | dict.fromkeys(range(30)[:10], 0.5)
    technique = Focus(3, min_arms=3, top_ratio=0.0, zoom_ratio=0.0, min_drawn=2, extra_samples=9, gap_ratio=0.0)
    chosen = technique.choose(30, 10.0, Scorer(reward), generator())
    assert Counter(place // 10 for place in chosen) == {2: 2, 0: 1}


def test_close_samples_count_for_their_arm_only_if_told_to() -> None:
    """Two arms of 50 frames. The centre of the first is as good as that of the second, the rest of it is worse."""
    reward = {24: 0.6, 74: 0.6} | dict.fromkeys(range(50, 100), 0.6)
    setting = Focus(
        max_frames=1, min_arms=2, coarse_every_s=50.0, extra_samples=0, top_ratio=0.0, min_drawn=1, zoom_ratio=0.0
    )
    released = [setting.choose(100, 1.0, Scorer(reward), generator(seed))[0] for seed in range(20)]
    assert all(place < 50 for place in released)  # the bounds tie, and the earlier arm goes first
    learnt = replace(setting, learn_closely=True)
    assert all(learnt.choose(100, 1.0, Scorer(reward), generator(seed))[0] >= 50 for seed in range(20))


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 300), budget=st.integers(1, 60), rate=st.floats(0.2, 30), extra=st.integers(0, 4))
def test_no_frame_is_scored_twice(frames: int, budget: int, rate: float, extra: int) -> None:
    scorer = Scorer()
    Focus(max_frames=budget, coarse_every_s=2.0, extra_samples=extra).choose(frames, rate, scorer, generator())
    asked = [place for places in scorer.asked for place in places]
    assert len({*asked}) == len(asked) <= frames
    assert all(places == sorted(places) for places in scorer.asked)


def test_a_small_part_of_a_long_video_is_scored() -> None:
    scorer = Scorer()
    Focus().choose(24 * 3600, 24.0, scorer, generator())
    coarse, fine = scorer.asked
    assert len(coarse) == 3 * 225
    # In 57 arms of 16 s a sample a second, a few of which meet another.
    assert 0.9 * 57 * 16 < len(fine) <= 57 * 16
    assert len(coarse) + len(fine) < 0.02 * 24 * 3600


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 200),
    budget=st.integers(1, 70),
    rate=st.floats(0.05, 30),
    most=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_the_budget_is_spent_even_where_the_best_arms_are_small(
    frames: int, budget: int, rate: float, most: int, seed: int
) -> None:
    technique = Focus(max_frames=budget, coarse_every_s=1.0, max_drawn=most)
    chosen = technique.choose(frames, rate, Scorer({3: 1.0}, 0.2), generator(seed))
    assert len(chosen) == len({*chosen}) == min(budget, frames)
    assert all(0 <= place < frames for place in chosen)


def test_the_rate_is_that_of_the_frames_that_are_there() -> None:
    request = random_request(PRESETS["tiny"], frames=6)
    assert frame_rate(request) == 2.0
    assert frame_rate(request.keep_frames(torch.tensor([0, 2, 5]))) == pytest.approx(2 / 2.5)
    assert frame_rate(request.keep_frames(torch.tensor([4]))) == 2.0


class Fixed:
    """A matcher that gives each frame the cosine that its first pixel says."""

    def __init__(self) -> None:
        self.text: list[Tensor] = []

    def score(self, frames_F3HW: Tensor, text_N: Tensor) -> Tensor:
        self.text.append(text_N)
        return frames_F3HW[:, 0, 0, 0]


def test_a_cosine_becomes_a_reward_and_its_frame_is_taken() -> None:
    request = random_request(PRESETS["tiny"], frames=9)
    pixels = torch.full_like(request.frames_F3HW, -1.0)
    pixels[4] = 1.0
    request = replace(request, frames_F3HW=pixels)
    matcher = Fixed()
    technique = Focus(max_frames=2, top_ratio=0.5, min_arms=1, matcher=matcher)  # type: ignore[arg-type]
    kept = technique.select_frames(Frames(request)).tolist()
    assert 4 in kept
    assert kept == sorted(kept)
    assert all(torch.equal(text_N, request.text_N) for text_N in matcher.text)
    assert technique._rewards(request, [3, 4]) == {3: 0.0, 4: 1.0}


def test_the_seed_is_that_of_the_request(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=9, max_new_tokens=1)
    technique = Focus(max_frames=3, min_arms=1)
    draws = [lvlm.run(replace(request, seed=seed), [technique]).trace.frame_index.tolist() for seed in (1, 1, 2, 3, 4)]
    assert draws[0] == draws[1]
    assert len({*map(tuple, draws)}) > 1


def test_a_budget_above_the_frames_scores_nothing_and_changes_nothing(device: str) -> None:
    matcher = Fixed()
    request = random_request(PRESETS["tiny"], frames=4)
    technique = Focus(max_frames=4, matcher=matcher)  # type: ignore[arg-type]
    assert technique.select_frames(Frames(request)).tolist() == [0, 1, 2, 3]
    assert not matcher.text
    lvlm = LVLM.random(device=device)
    assert torch.equal(lvlm.run(request, [Focus()]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_frames": 0}, {"min_arms": 0}, {"extra_samples": -1}, {"min_zoomed": 0}, {"min_drawn": 0},
        {"max_drawn": 0}, {"coarse_every_s": 0.0}, {"fine_every_s": -1.0}, {"temperature": 0.0}, {"zoom_ratio": 1.1},
        {"even_share": -0.1}, {"top_ratio": 2.0}, {"gap_ratio": -1.0}, {"max_gap_s": -0.5},
    ],
)  # fmt: skip
def test_parameters_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Focus(**wrong)  # type: ignore[arg-type]
