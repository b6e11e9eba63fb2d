"""VideoTree: wider until enough clusters matter, deeper where they do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import Frames
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.modules.matcher import ImageTextMatcher
from lvlm_atlas.reference.techniques.encoding.videotree import VideoTree, deepen, ratings, typical, widen


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(*lengths: int, width: int = 16) -> Tensor:
    """Features of a video of scenes with so many frames, each scene in a direction of its own."""
    noise = torch.randn(sum(lengths), width, generator=generator(9)) * 0.01
    return noise + torch.cat([torch.eye(width)[[scene]].expand(length, -1) for scene, length in enumerate(lengths)])


def constant(rating: int) -> Callable[[Tensor], list[int]]:
    return lambda place_K: [rating] * len(place_K)


def test_it_grows_until_there_are_enough_clusters_that_matter() -> None:
    feature = torch.randn(200, 12, generator=generator())
    asked: list[int] = []

    def rate(place_K: Tensor) -> list[int]:
        asked.append(len(place_K))
        return [3] * min(3, len(place_K)) + [1] * max(0, len(place_K) - 3) if len(asked) < 2 else [3] * len(place_K)

    groups, rated = widen(feature, rate, 8, 32, 2, 4, generator())
    assert asked == [8, 16]  # three are not enough, and the second round is the last
    assert len(groups) == 16
    assert rated == [3] * 16


def test_a_round_of_the_most_clusters_is_the_last() -> None:
    feature = torch.randn(200, 12, generator=generator())
    assert len(widen(feature, constant(1), 8, 32, 2, 4, generator())[0]) == 32
    assert len(widen(feature, constant(1), 8, 31, 2, 4, generator())[0]) == 32  # the last round may overshoot
    assert len(widen(feature, constant(1), 8, 33, 3, 4, generator())[0]) == 72
    assert len(widen(feature, constant(3), 8, 32, 2, 4, generator())[0]) == 8
    assert len(widen(feature, constant(2), 8, 32, 2, 0, generator())[0]) == 8


def test_there_are_never_more_clusters_than_frames() -> None:
    feature = torch.randn(11, 12, generator=generator())
    groups, _ = widen(feature, constant(1), 8, 32, 2, 4, generator())
    assert sorted(int(place) for place_N in groups for place in place_N) == [*range(11)]
    assert len(groups) == 11


def test_one_cluster_and_one_frame() -> None:
    feature = torch.randn(5, 4, generator=generator())
    (group,), rated = widen(feature, constant(2), 1, 1, 2, 4, generator())
    assert (group.tolist(), rated) == ([0, 1, 2, 3, 4], [2])
    (group,), _ = widen(feature[:1], constant(2), 8, 32, 2, 4, generator())
    assert group.tolist() == [0]
    for rating in (1, 2, 3):
        assert deepen(feature[:1], rating, 4) == {0}


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 40), first=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_the_frame_that_is_rated_is_one_of_its_cluster(frames: int, first: int, seed: int) -> None:
    feature = torch.randn(frames, 3, generator=generator(seed))
    seen: list[list[int]] = []

    def rate(place_K: Tensor) -> list[int]:
        seen.append(place_K.tolist())
        return [1] * len(place_K)

    groups, _ = widen(feature, rate, first, first, 2, 1, generator(seed))
    assert all(place in group.tolist() for place, group in zip(seen[-1], groups, strict=True))
    assert sorted(place for group in groups for place in group.tolist()) == [*range(frames)]


def test_the_frame_that_is_rated_is_the_nearest_to_the_mean() -> None:
    feature = torch.tensor([[1.0, 0.0], [3.0, 0.1], [4.1, 0.0], [9.0, 0.0]])  # of mean (4.3, 0)
    seen: list[list[int]] = []
    widen(feature, lambda place_K: seen.append(place_K.tolist()) or [1], 1, 1, 2, 1, generator())
    assert seen == [[2]]


def test_a_rating_belongs_to_the_cluster_of_its_frame() -> None:
    """Four scenes, of which the third matters, in whatever order the clusters come."""
    feature = scenes(5, 6, 7, 8)
    met = 0
    for seed in range(20):
        groups, rated = widen(
            feature, lambda place_K: (1 + 2 * ((place_K >= 11) & (place_K < 18))).tolist(), 4, 4, 2, 1, generator(seed)
        )
        if sorted(map(len, groups)) != [5, 6, 7, 8]:
            continue  # it started from two frames of one scene
        met += 1
        (matters,) = (group for group, rating in zip(groups, rated, strict=True) if rating == 3)
        assert matters.tolist() == [*range(11, 18)]
    assert met > 1


def test_the_frame_of_a_cluster_is_the_most_similar_to_its_mean() -> None:
    # By cosine the second, whose direction is that of the mean (3.1, 3.0); by distance the last.
    assert typical(torch.tensor([[4.0, 0.0], [0.1, 0.1], [0.3, 8.0], [8.0, 3.9]])) == 1


def test_depth_follows_the_rating() -> None:
    """Two scenes of two shots each of two frames: one frame, one and one a scene, one and one a shot."""
    shots = torch.tensor([[1.0, 0, 0], [1, 0.3, 0], [0, 0, 1], [0.3, 0, 1]]) * 10
    feature = shots.repeat_interleave(2, dim=0) + torch.randn(8, 3, generator=generator()) * 0.01
    one, two, three = (deepen(feature, rating, 2) for rating in (1, 2, 3))
    assert len(one) == 1
    assert {place // 4 for place in two} == {0, 1}
    assert {place // 2 for place in three} == {0, 1, 2, 3}
    assert one < two
    assert len(two) <= 3
    assert len(three) <= 5


def test_parts_of_one_frame_are_kept() -> None:
    feature = scenes(1, 1, 1)
    assert deepen(feature, 3, 4) == deepen(feature, 2, 4) == {0, 1, 2}
    mixed = scenes(4, 1)  # a part of four frames and one of a single frame
    assert 4 in deepen(mixed, 3, 2)


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 40), rating=st.integers(1, 3), branches=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_a_cluster_gives_no_more_frames_than_its_tree_has_nodes(
    frames: int, rating: int, branches: int, seed: int
) -> None:
    feature = torch.randn(frames, 4, generator=generator(seed))
    kept = deepen(feature, rating, branches)
    most = 1 if branches == 1 else 1 + (0, branches, branches**2)[rating - 1]
    assert 1 <= len(kept) <= min(frames, most)
    assert kept >= deepen(feature, 1, branches)


def test_frames_are_rated_against_the_video() -> None:
    assert ratings(torch.tensor([0.1, 0.1, 0.1, 0.2, 0.9])).tolist() == [1, 1, 1, 1, 3]
    assert ratings(torch.tensor([0.0, 0.3, 0.6, 0.9])).tolist() == [1, 1, 2, 3]
    assert ratings(torch.full((7,), 0.3)).tolist() == [1] * 7


class Fixed:
    """A matcher whose features are given."""

    def __init__(self, feature_FD: Tensor, text_D: Tensor) -> None:
        self.feature_FD, self.text_D = feature_FD, text_D
        self.asked: list[Tensor] = []

    def embed_frames(self, frames_F3HW: Tensor) -> Tensor:
        return self.feature_FD

    def embed_text(self, text_N: Tensor) -> Tensor:
        self.asked.append(text_N)
        return self.text_D


def test_more_frames_of_what_matters_are_kept() -> None:
    request = random_request(PRESETS["tiny"], frames=24)
    feature = scenes(8, 8, 8)
    matcher = Fixed(feature, torch.eye(16)[1])
    technique = VideoTree(first_clusters=6, max_clusters=6, wanted=1, branches=2, matcher=matcher)  # type: ignore[arg-type]
    kept = technique.select_frames(Frames(request))
    assert bool((kept.diff() > 0).all())
    assert int(((kept >= 8) & (kept < 16)).sum()) > len(kept) / 3
    assert torch.equal(matcher.asked[0], request.text_N)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 40),
    first=st.integers(1, 6),
    most=st.integers(1, 9),
    growth=st.integers(2, 4),
    wanted=st.integers(0, 5),
    branches=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_no_more_frames_are_kept_than_declared(
    frames: int, first: int, most: int, growth: int, wanted: int, branches: int, seed: int
) -> None:
    matcher = Fixed(torch.randn(frames, 6, generator=generator(seed)), torch.randn(6, generator=generator(seed + 1)))
    request = replace(
        random_request(PRESETS["tiny"], frames=1),
        frames_F3HW=torch.zeros(frames, 3, 1, 1),
        seed=seed,
    )
    technique = VideoTree(first, most, growth, wanted, branches, matcher=matcher)  # type: ignore[arg-type]
    kept = technique.select_frames(Frames(request)).tolist()
    assert kept == sorted({*kept})
    if frames <= first:
        assert kept == [*range(frames)]
        return
    clusters = first * growth ** max(0, math.ceil(math.log2(most / first) / math.log2(growth) - 1e-9))
    assert 1 <= len(kept) <= min(frames, clusters * (1 if branches == 1 else 1 + branches**2))


def test_each_frame_is_kept_once() -> None:
    request = random_request(PRESETS["tiny"], frames=9)
    technique = VideoTree(first_clusters=2, matcher=ImageTextMatcher.random())
    kept = technique.select_frames(Frames(request)).tolist()
    assert kept == sorted({*kept})
    assert kept != [*range(9)] or len(kept) == 9


def test_of_frames_that_are_all_alike_one_is_left(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=7, max_new_tokens=1)
    alike = replace(request, frames_F3HW=request.frames_F3HW[:1].expand(7, -1, -1, -1))
    assert lvlm.run(alike, [VideoTree(first_clusters=2, max_clusters=4)]).trace.frames == 1


def test_as_few_frames_as_clusters_are_all_kept_and_none_is_looked_at(device: str) -> None:
    request = random_request(PRESETS["tiny"], frames=8)
    assert VideoTree().select_frames(Frames(request)).tolist() == [*range(8)]
    lvlm = LVLM.random(device=device)
    assert torch.equal(lvlm.run(request, [VideoTree()]).logits_NC, lvlm.run(request).logits_NC)


@pytest.mark.parametrize(
    "wrong", [{"first_clusters": 0}, {"max_clusters": 0}, {"growth": 1}, {"wanted": -1}, {"branches": 0}]
)
def test_parameters_outside_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least"):
        VideoTree(**wrong)  # type: ignore[arg-type]
