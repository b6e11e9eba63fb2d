"""Budgets: exact sums within bounds, against brute force and by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.ops.budget import apportion, clipped_shares, head_budgets, pyramid_budgets
from lvlm_atlas.reference.ops.selection import top_mask


def shares(weights: list[float], total: int, **bounds: int) -> list[int]:
    return apportion(torch.tensor(weights), total, **bounds).tolist()


def test_shares_by_hand_round_the_largest_remainders_up() -> None:
    assert shares([5.0, 3.0, 1.0], 10) == [6, 3, 1]  # 5.56, 3.33, 1.11
    assert shares([1.0, 1.0, 1.0], 5) == [2, 2, 1]  # of equal remainders the first
    assert shares([0.1] * 3, 3) == [1, 1, 1]  # floats that do not add up to 0.3
    assert shares([7.0], 4) == [4]


def test_what_bounds_take_or_leave_is_shared_in_proportion_by_the_others() -> None:
    assert shares([8.0, 2.0, 2.0], 12, ceiling=6) == [6, 3, 3]
    assert shares([8.0, 4.0, 0.0], 15, floor=3) == [8, 4, 3]
    # 9.23, 1.85, 0.92: the floor of 2 binds the small ones. Then 8 is left for the first, not cut to its ceiling 9.
    assert shares([10.0, 2.0, 1.0], 12, floor=2, ceiling=9) == [8, 2, 2]
    assert shares([1.0, 0.0, 0.0], 12, ceiling=6) == [6, 3, 3], "no weight, but entries left over"


def test_bounds_may_differ_from_part_to_part(device: str) -> None:
    weight = torch.tensor([[0.9, 0.1], [0.5, 0.5]], device=device)
    out = apportion(weight, 20, ceiling=torch.tensor([[3, 9], [4, 9]], device=device))
    assert out.tolist() == [[3, 4], [4, 9]]  # after 3 and 4, 13 in the ratio 1 : 5 is 2.2 : 10.8, but 9 is all
    assert out.dtype == torch.long
    assert out.device == weight.device


def test_equal_weights_and_none_at_all_share_alike() -> None:
    assert shares([0.0, 0.0, 0.0], 7) == shares([2.0, 2.0, 2.0], 7) == [3, 2, 2]
    assert shares([1.0, 2.0], 0) == [0, 0]
    assert apportion(torch.empty(0), 0).tolist() == []


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], int, list[int], list[int]]:
    parts = draw(st.integers(1, 4))
    weights = [draw(st.integers(0, 5)) for _ in range(parts)]
    low = [draw(st.integers(0, 3)) for _ in range(parts)]
    high = [least + draw(st.integers(0, 4)) for least in low]
    return weights, draw(st.integers(sum(low), sum(high))), low, high


@given(problems())
@settings(max_examples=150)
def test_shares_add_up_within_bounds_and_are_nearest_to_proportion(
    problem: tuple[list[int], int, list[int], list[int]],
) -> None:
    weights, total, low, high = problem
    got = apportion(torch.tensor(weights), total, torch.tensor(low), torch.tensor(high)).tolist()
    assert sum(got) == total
    assert all(least <= share <= most for least, share, most in zip(low, got, high, strict=True))
    if not all(weights):
        return

    def distance(candidate: tuple[int, ...]) -> float:
        """Σ (share − proportional)² / weight; the least within the bounds is proportional where they leave it free."""
        return sum(share**2 / weight for share, weight in zip(candidate, weights, strict=True))

    def real(at: float) -> float:
        return sum(min(max(at * w, least), most) for w, least, most in zip(weights, low, high, strict=True))

    below, above = 0.0, 1e3  # the one factor whose clipped products add up to the total
    for _ in range(100):
        middle = (below + above) / 2
        below, above = (middle, above) if real(middle) < total else (below, middle)
    for weight, least, share, most in zip(weights, low, got, high, strict=True):
        assert abs(share - min(max(above * weight, least), most)) < 1 + 1e-6
    ranges = (range(least, most + 1) for least, most in zip(low, high, strict=True))
    feasible = [candidate for candidate in product(*ranges) if sum(candidate) == total]
    assert distance(tuple(got)) <= min(map(distance, feasible)) + len(weights)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 40))
def test_without_bounds_the_rule_is_hamiltons(weights: list[int], total: int) -> None:
    whole = sum(weights) or len(weights)
    parts = weights if sum(weights) else [1] * len(weights)
    quotas = [divmod(total * part, whole) for part in parts]
    left = total - sum(quota for quota, _ in quotas)
    winners = sorted(range(len(parts)), key=lambda part: (-quotas[part][1], part))[:left]
    expected = [quota + (part in winners) for part, (quota, _) in enumerate(quotas)]
    assert shares([float(weight) for weight in weights], total) == expected


def test_a_large_total_loses_no_entry() -> None:
    weight = torch.rand(28, 8, generator=torch.Generator().manual_seed(0))
    out = apportion(weight, 10**15 + 7)
    assert int(out.sum()) == 10**15 + 7


@pytest.mark.parametrize(
    ("weights", "bounds", "says"),
    [
        ([1.0, -1.0], {}, "weights must be finite and not negative"),
        ([1.0, float("nan")], {}, "weights must be finite and not negative"),
        ([1.0, 1.0], {"floor": 6}, r"total must be in 12\.\.10"),
        ([1.0, 1.0], {"ceiling": 4}, r"total must be in 0\.\.8, what the bounds add up to, got 10"),
        ([1.0, 1.0], {"floor": 6, "ceiling": 4}, "no floor may lie above its ceiling"),
    ],
)
def test_what_cannot_be_shared_is_refused(weights: list[float], bounds: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        shares(weights, 10, **bounds)


def test_clipped_shares_by_hand(device: str) -> None:
    weight = torch.tensor([6.0, 3.0, 1.0, 0.0], dtype=torch.float64, device=device)
    assert clipped_shares(weight, 0.5).tolist() == pytest.approx([1.0, 0.6, 0.2, 0.01])
    assert clipped_shares(torch.ones(5), 0.2).tolist() == pytest.approx([0.2] * 5)
    assert clipped_shares(torch.ones(5), 1.0).tolist() == pytest.approx([1.0] * 5)
    for wrong in ([0.0, 0.0], [1.0, -0.5]):
        with pytest.raises(ValueError, match="weights must not be negative, nor all 0"):
            clipped_shares(torch.tensor(wrong), 0.5)


def test_the_pyramid_by_hand() -> None:
    # base 20: the last layer 20 // 5 = 4, the first 36, (36 − 4) // 3 = 10 each step.
    assert pyramid_budgets(24, 4, 5, 4, 1000) == [36, 26, 16, 6]
    # 30 entries before the window: the first keeps 30, the last 10, and each step is 20 // 3.
    assert pyramid_budgets(24, 4, 5, 4, 44) == [36, 26, 16, 6]
    assert pyramid_budgets(24, 14, 5, 3, 26) == [12, 10, 8]  # base 10, held 12: 18 is more than there is


@pytest.mark.parametrize(
    ("length", "kept"), [(3, [0] * 3), (23, [19] * 3), (24, [20] * 3), (39, [20] * 3), (40, [36, 20, 4])]
)
def test_short_prompts_are_kept_whole_and_middling_ones_alike(length: int, kept: list[int]) -> None:
    assert pyramid_budgets(24, 4, 5, 3, length) == kept


@given(st.integers(0, 60), st.integers(0, 20), st.integers(1, 30), st.integers(1, 12), st.integers(0, 300))
def test_a_pyramid_falls_within_what_there_is_and_keeps_its_sum_but_for_the_step(
    base: int, window: int, steepness: int, layers: int, length: int
) -> None:
    budgets = pyramid_budgets(base + window, window, steepness, layers, length)
    assert budgets == sorted(budgets, reverse=True)
    assert all(0 <= budget <= max(0, length - window) for budget in budgets)
    if length >= base + window:
        assert 0 <= sum(budgets) - layers * base <= layers * (layers - 1) / 2
    if steepness == 1 and length >= base + window:
        assert budgets == [base] * layers


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((8, 9, 1, 1, 20), r"window must be in 0\.\.8"), ((8, 2, 0, 1, 20), "steepness and layers must be at least 1")],
)
def test_a_pyramid_that_cannot_be_built_is_refused(arguments: tuple[int, int, int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pyramid_budgets(*arguments)


def test_heads_get_their_hits_drawn_towards_the_mean(device: str) -> None:
    score = torch.tensor([[[9.0, 8, 7, 6, 0, 0], [1, 2, 5, 0, 0, 0]]], device=device)
    assert head_budgets(score, 2, 0.0).tolist() == [[4, 0]]
    assert head_budgets(score, 2, 0.5).tolist() == [[3, 1]]
    assert head_budgets(score, 2, 0.25).tolist() == [[4, 0]]  # 3.5 and 0.5: of equal remainders the first
    assert head_budgets(score, 2, 1.0).tolist() == [[2, 2]]


@given(st.data())
def test_head_budgets_add_up_keep_their_floor_and_at_0_are_the_best_of_all(data: st.DataObject) -> None:
    heads, entries = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    base, floor_share = data.draw(st.integers(0, entries)), data.draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    seed = data.draw(st.integers(0, 10**6))
    score = torch.randint(0, 5, (2, heads, entries), generator=torch.Generator().manual_seed(seed)).float()
    budget = head_budgets(score, base, floor_share)
    assert budget.sum(dim=1).tolist() == [heads * base] * 2
    assert bool((budget >= int(floor_share * base)).all())
    assert bool((budget <= entries).all())
    best = head_budgets(score, base, 0.0)
    for row in range(2):
        order = sorted((-float(score[row, h, s]), h, s) for h in range(heads) for s in range(entries))
        hits = [sum(h == head for _, h, _ in order[: heads * base]) for head in range(heads)]
        assert best[row].tolist() == hits
    assert top_mask(score, budget).sum(dim=-1).tolist() == budget.tolist()
    if floor_share == 1:
        assert budget.tolist() == [[base] * heads] * 2


def test_head_budgets_out_of_range_are_refused() -> None:
    for base, floor_share in ((4, 0.5), (2, 1.5)):
        with pytest.raises(ValueError, match=r"base must be in 0\.\.3, floor_share in \[0, 1\]"):
            head_budgets(torch.ones(1, 2, 3), base, floor_share)
