"""Diverse tokens: max-min selection, farthest points and determinantal point processes, against brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.ops.diversity import farthest_points, greedy_map, select_diverse
from lvlm_atlas.reference.ops.similarity import cosine_distance, unit


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (1, V, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def tokens(number: int, seed: int = 0) -> Tensor:
    return torch.randn(1, number, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_distance(distance_VV: Tensor, chosen: list[int]) -> float:
    return min(float(distance_VV[u, v]) for u, v in combinations(chosen, 2))


def test_each_next_token_is_the_one_whose_nearest_chosen_token_is_farthest(device: str) -> None:
    distance = cosine_distance(directions(0, 10, 100, 130, 300, device=device))
    # From 300°: 100° is 160° away, 130° is 170°. Then 10° lies 70° from 300°, and 0° 60°; 100° lies 30° from 130°.
    assert select_diverse(distance, 4).tolist() == [[4, 3, 1, 2]]


@settings(max_examples=50)
@given(st.integers(2, 16), st.integers(0, 10**6), st.data())
def test_the_choice_is_that_of_a_plain_greedy_search(number: int, seed: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, number))
    distance = cosine_distance(tokens(number, seed))
    table = distance[0].tolist()
    chosen = [max(range(number), key=lambda v: min(table[u][v] for u in range(number) if u != v))]
    while len(chosen) < keep:
        free = [v for v in range(number) if v not in chosen]
        chosen.append(max(free, key=lambda v: min(table[u][v] for u in chosen)))
    assert select_diverse(distance, keep).tolist() == [chosen]


@settings(max_examples=30)
@given(st.integers(3, 9), st.integers(0, 10**6), st.data())
def test_the_spread_is_at_least_half_of_the_best_for_a_metric(number: int, seed: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(2, number))
    angle = torch.arccos((1 - cosine_distance(tokens(number, seed))).clamp(-1, 1))  # the cosine distance is no metric
    angle = angle * (1 - torch.eye(number))
    chosen = select_diverse(angle, keep)[0].tolist()
    best = max(least_distance(angle[0], list(subset)) for subset in combinations(range(number), keep))
    assert least_distance(angle[0], chosen) >= best / 2 - 1e-9


def test_keeping_more_only_adds_tokens_and_brings_them_closer(device: str) -> None:
    distance = cosine_distance(tokens(20).to(device))
    order = select_diverse(distance, 20)[0].tolist()
    spread = [least_distance(distance[0], order[:keep]) for keep in range(2, 21)]
    assert spread == sorted(spread, reverse=True)
    assert select_diverse(distance, 7)[0].tolist() == order[:7]


def test_more_tokens_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match=r"keep must be in 0\.\.3"):
        select_diverse(cosine_distance(tokens(3)), 4)


@pytest.mark.parametrize("select", [select_diverse, greedy_map])
def test_none_one_and_all_can_be_kept(select, device: str) -> None:  # type: ignore[no-untyped-def]
    table = torch.zeros(2, 3, 3, device=device)  # duplicates for the one, zero vectors for the other
    assert select(table, 0).shape == (2, 0)
    assert select(table, 3).tolist() == [[0, 1, 2]] * 2
    assert select(table[:, :1, :1], 1).tolist() == [[0], [0]]
    assert select(table[:, :0, :0], 0).shape == (2, 0)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_farthest_points_are_those_of_a_plain_search(number: int, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    distance = torch.randint(0, 4, (1, number, number), generator=generator)
    distance = (distance + distance.mT) * (1 - torch.eye(number, dtype=torch.long))
    start = data.draw(st.lists(st.integers(0, number - 1), min_size=1, unique=True))
    keep = data.draw(st.integers(len(start), number))
    table, chosen = distance[0].tolist(), list(start)
    while len(chosen) < keep:
        free = [v for v in range(number) if v not in chosen]
        chosen.append(max(free, key=lambda v: (min(table[u][v] for u in chosen), -v)))
    assert farthest_points(distance.float(), torch.tensor([start]), keep).tolist() == [chosen]


def test_farthest_points_start_where_they_are_told(device: str) -> None:
    distance = cosine_distance(directions(0, 10, 100, 180, device=device))
    assert farthest_points(distance, torch.tensor([[1]], device=device), 3).tolist() == [[1, 3, 2]]
    none = torch.empty(1, 0, dtype=torch.long, device=device)
    assert farthest_points(distance, none, 0).shape == (1, 0)
    with pytest.raises(ValueError, match="must be chosen beforehand"):
        farthest_points(distance, none, 2)
    with pytest.raises(ValueError, match=r"keep must be in 2\.\.4 \(the tokens\), got 1"):
        farthest_points(distance, torch.tensor([[0, 1]], device=device), 1)


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(0, 10**6), st.data())
def test_each_token_raises_the_determinant_most(number: int, seed: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, number))
    x = torch.randn(2, number, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kernel = x @ x.mT
    for row, order in enumerate(greedy_map(kernel, keep).tolist()):
        for k in range(keep):
            free = [v for v in range(number) if v not in order[:k]]
            volume = {v: float(kernel[row][[*order[:k], v]][:, [*order[:k], v]].det()) for v in free}
            assert volume[order[k]] >= max(volume.values()) * (1 - 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_duplicates_and_zero_vectors_come_last_and_in_order(dtype: torch.dtype, device: str) -> None:
    x = directions(0, 0, 90, 0, 90, device=device) * torch.tensor([[[1.0], [1], [0.5], [1], [0]]], device=device)
    x = x.to(dtype)
    order = greedy_map(x @ x.mT, 5)
    assert order.tolist() == [[0, 2, 1, 3, 4]]


@pytest.mark.parametrize(("number", "rank"), [(60, 6), (300, 20)])
def test_beyond_the_rank_every_token_is_still_chosen_once(number: int, rank: int, device: str) -> None:
    x = torch.randn(1, number, rank, generator=torch.Generator().manual_seed(1)).to(device)
    similarity = unit(x) @ unit(x).mT
    order = greedy_map(similarity, number)[0].tolist()
    assert sorted(order) == list(range(number))
    chosen = order[:rank]
    assert float(similarity[0][chosen][:, chosen].double().det()) > 0
    rest = order[rank:]
    assert rest == sorted(rest), "what the chosen tokens span has no gain, and follows by place"


def test_float32_chooses_as_float64_does(device: str) -> None:
    x = torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(device)
    kernel = x @ x.mT  # not of unit vectors: the first token would be a tie
    assert torch.equal(greedy_map(kernel.float(), 20), greedy_map(kernel, 20))


def test_relevance_outweighs_diversity_as_the_kernel_says(device: str) -> None:
    x = directions(0, 20, 90, device=device)
    relevance = torch.tensor([[[1.0], [0.9], [0.1]]], dtype=torch.float64, device=device)
    similarity = x @ x.mT
    assert greedy_map(similarity, 2).tolist() == [[0, 2]]
    # det {0, 1} = 0.81 · sin² 20° = 0.095; det {0, 2} = 0.01
    assert greedy_map(relevance * similarity * relevance.mT, 2).tolist() == [[0, 1]]


def test_more_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match=r"keep must be in 0\.\.3 \(the tokens\), got 4"):
        greedy_map(torch.eye(3)[None], 4)
