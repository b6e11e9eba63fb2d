"""Clusters: against plain loops, with duplicates, ties, one token and one cluster for each token."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from math import exp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.ops.clustering import (
    connected_components,
    cosine_means,
    density_peaks,
    distance_to_denser,
    knn_density,
    nearest_centre,
    scaled_distance,
    segments,
    ward,
)
from lvlm_atlas.reference.ops.merging import merge_wavg


def line(*places: float, device: str = "cpu") -> Tensor:
    """Distances (1, N, N) of points on a line."""
    x = torch.tensor(places, dtype=torch.float64, device=device)
    return (x - x[:, None]).abs()[None]


points = st.lists(st.integers(0, 6), min_size=1, max_size=9)
"""Points on a short line, so that duplicates and ties are the rule."""


def test_distances_are_scaled_and_equal_tokens_are_not_apart() -> None:
    x = torch.tensor([[[0.0, 0, 0, 0], [4, 4, 4, 4], [1000.1, 999.7, 0.3, 7]]]).repeat(1, 20, 1)
    distance = scaled_distance(x)[0]
    assert distance[0, 1] == 4  # 8, divided by the root of 4 dimensions
    assert distance[2, 5::3].tolist() == [0.0] * 19
    assert scaled_distance(x.bfloat16()).dtype == torch.float32


def test_density_by_hand_counts_the_token_itself(device: str) -> None:
    density = knn_density(line(0, 1, 3, device=device), 2)
    torch.testing.assert_close(density.cpu(), torch.tensor([[exp(-0.5), exp(-0.5), exp(-2)]], dtype=torch.float64))
    assert knn_density(line(0, 1, 3), 1).tolist() == [[1, 1, 1]]
    assert torch.equal(knn_density(line(0, 1, 3), 99), knn_density(line(0, 1, 3), 3))
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        knn_density(line(0, 1), 0)


@given(points, st.data())
def test_the_nearest_denser_token_is_that_of_a_plain_search(places: list[int], data: st.DataObject) -> None:
    density = [data.draw(st.integers(0, 3)) for _ in places]
    distance = line(*places)
    table = distance[0].tolist()
    for token, got in enumerate(distance_to_denser(distance, torch.tensor([density]))[0].tolist()):
        denser = [u for u in range(len(places)) if (-density[u], u) < (-density[token], token)]
        greatest = max(max(row) for row in table)
        assert got == min((table[token][u] for u in denser), default=greatest)


@given(points, st.data())
@settings(max_examples=50)
def test_peaks_and_members_are_those_of_plain_loops(places: list[int], data: st.DataObject) -> None:
    clusters = data.draw(st.integers(1, len(places)))
    distance = line(*places)
    density = knn_density(distance, 3)
    centre, matching = density_peaks(distance, density, clusters)
    score = (density * distance_to_denser(distance, density))[0].tolist()
    expected = sorted(sorted(range(len(places)), key=lambda token: (-score[token], token))[:clusters])
    assert centre[0].tolist() == expected
    for token, group in enumerate(matching.group_BN[0].tolist()):
        to_centre = [abs(places[token] - places[one]) for one in expected]
        nearest = expected.index(token) if token in expected else to_centre.index(min(to_centre))
        assert group == nearest
    assert matching.count == clusters


def test_two_heaps_have_a_peak_each_and_become_their_means(device: str) -> None:
    distance = line(0, 1, 2, 20, 21, 22.5, device=device)
    centre, matching = density_peaks(distance, knn_density(distance, 3), 2)
    assert centre.tolist() == [[1, 4]]
    mean, size = merge_wavg(matching, torch.tensor([0, 1, 2, 20, 21, 22.6], device=device)[None, :, None])
    torch.testing.assert_close(mean[0, :, 0].cpu(), torch.tensor([1.0, 21.2]))
    assert size.tolist() == [[3, 3]]


def test_as_many_clusters_as_tokens_leave_duplicates_alone_and_one_takes_all(device: str) -> None:
    same = torch.zeros(2, 4, 4, device=device)
    density = knn_density(same, 2)
    centre, matching = density_peaks(same, density, 4)
    assert centre.tolist() == matching.group_BN.tolist() == [[0, 1, 2, 3]] * 2
    assert density_peaks(same, density, 1)[1].group_BN.tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.parametrize("clusters", [0, 4])
def test_as_many_clusters_as_there_are_not_tokens_are_refused(clusters: int) -> None:
    with pytest.raises(ValueError, match=rf"clusters must be in 1\.\.3 \(the tokens\), got {clusters}"):
        density_peaks(line(0, 1, 2), torch.ones(1, 3), clusters)


def test_a_centre_stays_its_own_though_its_twin_is_a_centre_too(device: str) -> None:
    twins = line(5, 5, 5, device=device)
    assert nearest_centre(twins, torch.tensor([[0, 2]], device=device)).group_BN.tolist() == [[0, 0, 1]]


@given(st.integers(1, 9), st.data())
def test_components_are_those_of_a_plain_search(tokens: int, data: st.DataObject) -> None:
    link = torch.zeros(2, tokens, tokens, dtype=torch.bool)
    for row in range(2):
        for one, two in data.draw(st.lists(st.tuples(*[st.integers(0, tokens - 1)] * 2), max_size=tokens)):
            link[row, one, two] = True
        lowest = list(range(tokens))
        for _ in range(tokens):
            for one, two in link[row].nonzero().tolist():
                lowest[one] = lowest[two] = min(lowest[one], lowest[two])
        assert connected_components(link)[row].tolist() == lowest


def test_a_long_chain_in_bad_order_is_one_component(device: str) -> None:
    chain = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    link = torch.zeros(1, 200, 200, dtype=torch.bool, device=device)
    for one, two in pairwise(chain):
        link[0, one, two] = True
    assert connected_components(link).tolist() == [[0] * 200]


@given(st.lists(st.integers(0, 3), max_size=6), st.integers(-1, 4), st.data())
def test_segments_are_the_runs_between_cuts(similarity: list[int], threshold: int, data: st.DataObject) -> None:
    least = data.draw(st.integers(1, len(similarity) + 1))
    cuts = {gap for gap, value in enumerate(similarity) if value < threshold}
    cuts |= set(sorted(range(len(similarity)), key=lambda gap: (similarity[gap], gap))[: least - 1])
    expected = [sum(cut < token for cut in cuts) for token in range(len(similarity) + 1)]
    got = segments(torch.tensor([similarity, similarity]).float(), threshold, least)
    assert got.tolist() == [expected, expected]
    assert expected[-1] + 1 >= least


def test_neighbours_at_the_threshold_stay_together_and_one_frame_is_one_segment(device: str) -> None:
    assert segments(torch.tensor([0.5, 0.4, 0.9], device=device), 0.5).tolist() == [0, 0, 1, 1]
    assert segments(torch.empty(3, 0, device=device), 0.5).tolist() == [[0], [0], [0]]
    with pytest.raises(ValueError, match=r"least must be in 1\.\.2 \(the tokens\), got 3"):
        segments(torch.ones(1), 0.5, least=3)


def test_means_settle_where_directions_differ() -> None:
    x = torch.tensor([[1.0, 0.1], [0.1, 4], [3, 0], [0, 1], [5, 0.2]])
    for seed in range(10):
        cluster, mean = cosine_means(x, 2, torch.Generator().manual_seed(seed))
        first = cluster[0]
        assert (cluster == first).tolist() == [True, False, True, False, True]  # by direction, not by distance
        torch.testing.assert_close(mean[first], torch.tensor([3, 0.1]))
        torch.testing.assert_close(mean[1 - first], torch.tensor([0.05, 2.5]))


def test_one_mean_is_that_of_all_and_as_many_as_tokens_are_the_tokens() -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    cluster, mean = cosine_means(x, 1, torch.Generator().manual_seed(0))
    assert cluster.tolist() == [0] * 7
    torch.testing.assert_close(mean[0], x.mean(dim=0))
    cluster, mean = cosine_means(x, 7, torch.Generator().manual_seed(0))
    assert sorted(cluster.tolist()) == [*range(7)]
    torch.testing.assert_close(mean[cluster], x)
    assert cosine_means(x[:1], 1, torch.Generator())[0].tolist() == [0]


def test_a_cluster_that_nobody_went_to_is_tried_elsewhere() -> None:
    x = torch.tensor([[1.0, 0]] * 5 + [[0.0, 1]])
    found = {tuple(cosine_means(x, 3, torch.Generator().manual_seed(seed))[0].tolist()) for seed in range(30)}
    assert all(len({*clusters}) <= 2 for clusters in found)  # of two different tokens there are two clusters at most
    # Three equal tokens may be drawn first; the empty clusters then find the sixth token.
    assert sum(clusters[5] != clusters[0] for clusters in found) > len(found) / 2


def test_means_stop_after_as_many_steps_as_allowed() -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    one, many = (cosine_means(x, 6, torch.Generator().manual_seed(0), steps=steps)[0] for steps in (1, 15))
    assert not torch.equal(one, many)
    loose = cosine_means(x, 6, torch.Generator().manual_seed(0), tolerance=math.inf)[0]
    assert torch.equal(loose, one)


@pytest.mark.parametrize("clusters", [0, 4])
def test_more_means_than_tokens_are_refused(clusters: int) -> None:
    with pytest.raises(ValueError, match="clusters must be in"):
        cosine_means(torch.randn(3, 2), clusters, torch.Generator())


def test_ward_merges_what_adds_the_least_variance() -> None:
    # Pairs cost 1/2 each. A pair and the token at 4: 2/3 · 3.5² = 8.2; the tokens at 4 and 7 alone: 1/2 · 3² = 4.5.
    x = torch.tensor([[0.0], [1], [4], [7], [20], [21]])
    assert ward(x, 4).tolist() == [0, 0, 1, 2, 3, 3]
    assert ward(x, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert ward(x, 2).tolist() == [0, 0, 0, 0, 1, 1]
    assert ward(x, 1).tolist() == [0] * 6


def test_ward_makes_all_merges_of_one_cost() -> None:
    assert ward(torch.tensor([[0.0], [1], [10], [11], [20]]), 4).tolist() == [0, 0, 1, 1, 2]
    assert ward(torch.zeros(4, 2), 3).tolist() == [0] * 4
    assert ward(torch.zeros(4, 2), 4).tolist() == ward(torch.zeros(4, 2), 9).tolist() == [0, 1, 2, 3]
    assert ward(torch.zeros(1, 2), 1).tolist() == [0]
    with pytest.raises(ValueError, match="clusters must be at least 1"):
        ward(torch.zeros(2, 2), 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 10**6))
def test_ward_is_the_merging_of_a_plain_search(tokens: int, clusters: int, seed: int) -> None:
    x = torch.randn(tokens, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    groups = [[token] for token in range(tokens)]

    def spread(group: list[int]) -> float:
        return float((x[group] - x[group].mean(dim=0)).square().sum())

    while len(groups) > clusters:
        one, two = min(
            combinations(groups, 2), key=lambda pair: spread(pair[0] + pair[1]) - spread(pair[0]) - spread(pair[1])
        )
        groups = [*(group for group in groups if group not in (one, two)), one + two]
    label = ward(x, clusters)
    assert {frozenset((label == each).nonzero()[:, 0].tolist()) for each in range(int(label.max()) + 1)} == {
        frozenset(group) for group in groups
    }
    firsts = [label.tolist().index(each) for each in range(len(groups))]
    assert firsts == sorted(firsts)
