"""Adaptive keyframe sampling."""

import heapq
import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher
from lvlm_atlas.reference.techniques.encoding.adaptive_keyframe_sampling import (
    AdaptiveKeyframeSampling,
    Segment,
    normalise,
    select,
    split,
)

NEVER = -1.0  # no gap lies below it: the whole video is one leaf
ALWAYS = math.inf  # no gap lies above it: every segment is halved down to the maximal depth


class Fixed:
    """A matcher that gives fixed scores and remembers what it was asked."""

    def __init__(self, *scores: float) -> None:
        self.scores = torch.tensor(scores)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def score(self, frames_F3HW: Tensor, text_N: Tensor) -> Tensor:
        self.asked.append((frames_F3HW, text_N))
        return self.scores


def test_scores_run_from_0_to_1_after_normalising(device: str) -> None:
    scores = torch.tensor([0.25, 0.5, 0.75], device=device)
    assert normalise(scores).tolist() == [0.0, 0.5, 1.0]


def test_equal_scores_do_not_divide_by_zero(device: str) -> None:
    scores = torch.full((16,), 0.3, device=device)
    assert normalise(scores).tolist() == [0.0] * 16
    assert select(scores, max_frames=4, max_depth=2).tolist() == [0, 4, 8, 12]


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        select(torch.tensor([0.1, math.nan, 0.2]), max_frames=2)


def test_always_splitting_takes_the_best_frames_of_each_part(device: str) -> None:
    scores = torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8, 0.7, 0.0, 1.0], device=device)
    assert select(scores, 4, ALWAYS, max_depth=2).tolist() == [1, 3, 4, 7]
    assert select(scores, 4, ALWAYS, max_depth=1).tolist() == [1, 3, 4, 7]
    assert select(scores, 2, ALWAYS, max_depth=1).tolist() == [1, 7]


def test_never_splitting_takes_the_best_frames_of_the_whole_video(device: str) -> None:
    scores = torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8, 0.7, 0.0, 1.0], device=device)
    assert select(scores, 3, NEVER).tolist() == [1, 4, 7]


def test_a_part_in_which_frames_stand_out_is_not_split(device: str) -> None:
    left, right = [0, 1, 0, 1, 0, 1, 0, 1], [0.9] * 8
    scores = torch.tensor(left + right, device=device)
    # Gap of the four best: whole video 1 − 0.7, left half 1 − 0.5, right half 0.
    leaves = split(normalise(scores), 4, 0.4, -100, 2)
    assert leaves == [Segment(0, 8, 1), Segment(8, 12, 2), Segment(12, 16, 2)]
    assert select(scores, 4, 0.4, max_depth=2).tolist() == [1, 3, 8, 12]
    assert select(scores, 4, 0.2, max_depth=2).tolist() == [1, 3, 5, 7]


def test_a_part_that_varies_too_little_is_split_even_if_frames_stand_out(device: str) -> None:
    scores = torch.tensor([0.0, 1, 0, 1, 0, 1, 0, 1] + [0.9] * 8, device=device)
    # Standard deviation of the left half is 0.5, and the threshold must be exceeded.
    assert split(normalise(scores), 4, 0.4, 0.49, 2)[0] == Segment(0, 8, 1)
    assert {leaf.depth for leaf in split(normalise(scores), 4, 0.4, 0.5, 2)} == {2}


def test_the_gap_is_taken_over_the_whole_budget_not_the_share_of_the_part(device: str) -> None:
    scores = torch.tensor([0.0, 1, 0, 0, 0, 0, 0, 0] + [0.0] * 8, device=device)
    # Left half: the 4 best lie 0.25 − 0.125 above its mean, the 2 best of its share would lie 0.375 above.
    assert select(scores, 4, 0.2, max_depth=2).tolist() == [1, 4, 8, 12]


def test_the_earlier_of_two_equal_frames_is_kept(device: str) -> None:
    scores = torch.tensor([0.0, 0.5, 1, 0.5, 0.5, 0.5], device=device)
    assert select(scores, 3, NEVER).tolist() == [1, 2, 3]


def test_an_odd_part_gives_its_middle_frame_to_the_right_half(device: str) -> None:
    scores = normalise(torch.arange(5.0, device=device))
    assert split(scores, 2, ALWAYS, -100, 1) == [Segment(0, 2, 1), Segment(2, 5, 1)]


def test_fewer_frames_than_the_budget_are_all_kept(device: str) -> None:
    scores = torch.rand(5, device=device)
    assert select(scores, 6).tolist() == [0, 1, 2, 3, 4]


def test_a_budget_that_halving_does_not_divide_is_not_spent_in_full(device: str) -> None:
    scores = torch.arange(40.0, device=device)
    assert len(select(scores, 7, ALWAYS, max_depth=2)) == 4  # ⌊7 / 4⌋ = 1 of each quarter
    assert len(select(scores, 7, ALWAYS, max_depth=3)) == 0  # ⌊7 / 8⌋ = 0, as upstream


def test_the_technique_never_splits_until_no_frame_is_left() -> None:
    request = random_request(LVLM.random().config, frames=6)
    matcher = Fixed(0.1, 0.9, 0.5, 0.7, 0.2, 0.3)
    technique = AdaptiveKeyframeSampling(max_frames=3, gap_threshold=ALWAYS, max_depth=5, matcher=matcher)  # type: ignore[arg-type]
    kept = technique.select_frames(Frames(request))
    assert len(kept) == 2  # depth ⌊log2 3⌋ = 1, ⌊3 / 2⌋ = 1 of each half


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=70),
    st.integers(1, 20),
    st.sampled_from([-1.0, 0.1003, 0.3007, 0.5501, 0.8009, math.inf]),  # no gap of such scores equals one of these
    st.integers(0, 4),
)
def test_the_choice_is_that_of_a_plain_recursion(scores: list[int], budget: int, gap: float, depth: int) -> None:
    low, high = min(scores), max(scores)
    relevance = [(score - low) / (high - low or 1) for score in scores]

    def choose(places: range, level: int) -> set[int]:
        ranked = sorted(places, key=lambda place: (-relevance[place], place))
        stands_out = (
            bool(ranked) and fmean(relevance[p] for p in ranked[:budget]) - fmean(relevance[p] for p in places) > gap
        )
        if stands_out or level == depth:
            return set(ranked[: budget // 2**level])
        middle = len(places) // 2
        return choose(places[:middle], level + 1) | choose(places[middle:], level + 1)

    expected = sorted(choose(range(len(scores)), 0)) if len(scores) >= budget else list(range(len(scores)))
    assert select(torch.tensor(scores), budget, gap, max_depth=depth).tolist() == expected


@settings(max_examples=60)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=90),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_a_leaf_never_runs_out_of_frames(scores: list[float], budget: int, gap: float, depth: int) -> None:
    depth = min(depth, budget.bit_length() - 1)
    kept = select(torch.tensor(scores, dtype=torch.float64), budget, gap, max_depth=depth)
    least = len(scores) if len(scores) < budget else 2**depth * (budget // 2**depth)
    assert least <= len(kept) <= min(budget, len(scores))
    assert bool((kept.diff() > 0).all())


@settings(max_examples=30)
@given(st.lists(st.integers(0, 100), min_size=8, max_size=40, unique=True))
def test_the_scale_of_the_scores_does_not_matter(scores: list[int]) -> None:
    numbers = torch.tensor(scores, dtype=torch.float64)
    assert torch.equal(select(numbers, 8, 0.4, max_depth=3), select(numbers * 4 - 64, 8, 0.4, max_depth=3))


def test_only_every_ratio_th_frame_is_a_candidate() -> None:
    request = random_request(LVLM.random().config, frames=8)
    matcher = Fixed(0.1, 0.9, 0.5, 0.7)
    technique = AdaptiveKeyframeSampling(max_frames=2, gap_threshold=NEVER, ratio=2, matcher=matcher)  # type: ignore[arg-type]
    assert technique.select_frames(Frames(request)).tolist() == [2, 6]
    assert torch.equal(matcher.asked[0][0], request.frames_F3HW[::2])


def test_candidates_left_over_at_the_end_are_none() -> None:
    request = random_request(LVLM.random().config, frames=7)
    assert AdaptiveKeyframeSampling(ratio=3).select_frames(Frames(request)).tolist() == [0, 3]
    assert AdaptiveKeyframeSampling(ratio=8).select_frames(Frames(request)).tolist() == [0]


def test_the_matcher_reads_the_text_without_placeholders() -> None:
    request = random_request(LVLM.random().config, frames=4, text_tokens=9)
    matcher = Fixed(0, 1, 2, 3)
    AdaptiveKeyframeSampling(max_frames=2, matcher=matcher).select_frames(Frames(request))  # type: ignore[arg-type]
    (_, text_N), *_ = matcher.asked
    assert len(text_N) == 9
    assert not bool((text_N == request.image_token_id).any())
    assert torch.equal(text_N, request.text_N)


def test_nothing_is_scored_where_there_is_nothing_to_choose() -> None:
    matcher = Fixed()
    request = random_request(LVLM.random().config, frames=4)
    technique = AdaptiveKeyframeSampling(max_frames=5, matcher=matcher)  # type: ignore[arg-type]
    assert technique.select_frames(Frames(request)).tolist() == [0, 1, 2, 3]
    assert not matcher.asked


def test_only_the_chosen_frames_reach_the_encoder_and_all_text_the_llm(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    technique = AdaptiveKeyframeSampling(max_frames=4, gap_threshold=ALWAYS, max_depth=1)
    trace = lvlm.run(request, [technique]).trace
    scores = ImageTextMatcher.random().score(request.frames_F3HW, request.text_N).tolist()
    expected = heapq.nlargest(2, range(3), scores.__getitem__) + heapq.nlargest(2, range(3, 6), scores.__getitem__)
    assert trace.frame_index is not None
    assert trace.frame_index.tolist() == sorted(expected)
    assert (trace.frames_in, trace.frames, trace.vision_tokens, trace.text_tokens) == (6, 4, 4 * 64, 16)
    assert trace.llm_tokens == trace.kv_entries == [4 * 64 + 16] * 4


def test_the_answer_is_that_to_the_chosen_frames_alone(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    technique = AdaptiveKeyframeSampling(max_frames=2, gap_threshold=NEVER, matcher=Fixed(0, 5, 1, 2, 9, 3))  # type: ignore[arg-type]
    # Text, six placeholders, text: two of the placeholders remain.
    chosen = replace(
        request,
        frames_F3HW=request.frames_F3HW[[1, 4]],
        prompt_N=torch.cat([request.prompt_N[:6], request.prompt_N[10:]]),
    )
    assert torch.equal(lvlm.run(request, [technique]).logits_NC, lvlm.run(chosen).logits_NC)


def test_a_budget_above_the_frames_changes_nothing(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    assert torch.equal(lvlm.run(request, [AdaptiveKeyframeSampling()]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize("wrong", [{"max_frames": 0}, {"max_depth": -1}, {"ratio": 0}])
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least"):
        AdaptiveKeyframeSampling(**wrong)  # type: ignore[arg-type]
