"""Selection by score: against plain sorting, with ties, none, all and one to choose from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.ops.places import places_of
from lvlm_atlas.reference.ops.selection import (
    mass_count,
    rank_in_group,
    ranking,
    recent_and_best,
    threshold_mask,
    top_mask,
    top_mask_of_groups,
    top_places,
)

rows_of_scores = st.integers(1, 8).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1, max_size=3)
)
"""Few values, so that ties are the rule."""


def best(row: list[int], keep: int) -> list[int]:
    """The places of the `keep` best, of equals the first, in reading order."""
    return sorted(sorted(range(len(row)), key=lambda place: (-row[place], place))[:keep])


@given(rows_of_scores, st.data())
def test_the_best_places_are_those_of_plain_sorting(rows: list[list[int]], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(rows[0])))
    assert top_places(torch.tensor(rows), keep).tolist() == [best(row, keep) for row in rows]


def test_of_many_equal_scores_the_lower_places_win(device: str) -> None:
    same = torch.full((2, 3, 500), 0.25, device=device)  # enough for a selection algorithm that is not stable
    assert top_places(same, 7).tolist() == [[list(range(7))] * 3] * 2
    assert ranking(same)[0, 0].tolist() == list(range(500))


@given(rows_of_scores, st.data())
def test_every_row_may_keep_its_own_number(rows: list[list[int]], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, len(row))) for row in rows]
    mask = top_mask(torch.tensor(rows), torch.tensor(counts))
    assert [row.nonzero()[:, 0].tolist() for row in mask] == [
        best(row, count) for row, count in zip(rows, counts, strict=True)
    ]


def test_one_number_holds_for_every_head(device: str) -> None:
    score = torch.rand(2, 3, 9, device=device)
    assert torch.equal(places_of(top_mask(score, 4)), top_places(score, 4))


@pytest.mark.parametrize("keep", [-1, 4])
def test_more_than_there_are_or_less_than_none_is_refused(keep: int) -> None:
    for select in (top_places, top_mask):
        with pytest.raises(ValueError, match=rf"keep must be in 0\.\.3 \(the scores of a row\), got {keep}"):
            select(torch.rand(2, 3), keep)


@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_first_places_precede_all_others_and_close_scores_keep_their_order(gap: float, device: str) -> None:
    score = torch.tensor([[0.1, 0.1 + gap, 9.0, 0.0]], device=device)
    first = torch.tensor([[True, True, False, True]], device=device)
    assert ranking(score, first).tolist() == [[1, 0, 3, 2]]
    assert top_places(score, 1, first).tolist() == [[1]]
    assert top_mask(score, 3, first).tolist() == [[True, True, False, True]]


@given(rows_of_scores, st.data())
def test_each_group_keeps_its_own_best(rows: list[list[int]], data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    group = [data.draw(st.integers(0, groups - 1)) for _ in rows[0]]
    keep = [data.draw(st.integers(0, 4)) for _ in range(groups)]
    mask = top_mask_of_groups(torch.tensor(rows), torch.tensor(group), torch.tensor(keep))
    for row, kept in zip(rows, mask.tolist(), strict=True):
        expected = [False] * len(row)
        for one in range(groups):
            members = [place for place in range(len(row)) if group[place] == one]
            for rank in best([row[place] for place in members], keep[one]):
                expected[members[rank]] = True
        assert kept == expected


def test_rows_may_be_grouped_each_for_itself(device: str) -> None:
    score = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], device=device)
    group = torch.tensor([[0, 0, 1], [0, 1, 1]], device=device)
    mask = top_mask_of_groups(score, group, torch.tensor([1, 1], device=device))
    assert mask.tolist() == [[True, False, True], [True, True, False]]


@given(rows_of_scores, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_no_fewer_scores_hold_the_mass(rows: list[list[int]], mass: float) -> None:
    for row, count in zip(rows, mass_count(torch.tensor(rows).float(), mass).tolist(), strict=True):
        falling = sorted(row, reverse=True)
        reaching = [n for n in range(len(row) + 1) if sum(falling[:n]) >= mass * sum(row)]
        assert count == reaching[0]


def test_all_the_mass_of_many_scores_is_reached_despite_rounding() -> None:
    score = torch.rand(4, 999, generator=torch.Generator().manual_seed(0))
    assert mass_count(score, 1.0).tolist() == [999] * 4
    assert mass_count(torch.zeros(1, 5), 1.0).tolist() == [0]


def test_the_mass_selects_different_numbers_in_each_row(device: str) -> None:
    score = torch.tensor([[0.0, 8, 1, 1], [1, 1, 1, 1]], device=device)
    mask = top_mask(score, mass_count(score, 0.75))
    assert mask.int().tolist() == [[0, 1, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize(("score", "mass", "says"), [([1.0, -1.0], 0.5, "negative"), ([1.0], 1.5, r"\[0, 1\]")])
def test_a_mass_that_is_no_share_is_refused(score: list[float], mass: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mass_count(torch.tensor(score), mass)


def test_a_threshold_is_strict_and_leaves_the_least_number(device: str) -> None:
    score = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 0.0]], device=device)
    assert threshold_mask(score, 2.0).int().tolist() == [[0, 0, 1], [0, 0, 0]]
    assert threshold_mask(score, 2.0, least=1).int().tolist() == [[0, 0, 1], [1, 0, 0]]
    mean: Tensor = score.mean(dim=-1, keepdim=True)
    assert threshold_mask(score, mean).int().tolist() == [[0, 0, 1], [1, 1, 0]]


def test_recent_places_are_selected_besides_the_best_of_the_others(device: str) -> None:
    score = torch.tensor([[3.0, 1, 2, 9, 9], [1, 3, 2, 0, 0]], device=device)
    assert recent_and_best(score, 2, 1).int().tolist() == [[1, 0, 0, 1, 1], [0, 1, 0, 1, 1]]
    assert recent_and_best(score, 0, 2).int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]
    assert recent_and_best(score, 9, 3).all()
    assert recent_and_best(score, 1, 9).all()
    first = torch.tensor([True, False, False, True, False], device=device)
    assert recent_and_best(score, 1, 2, first).int().tolist() == [[1, 0, 0, 1, 1]] * 2


def test_ranks_count_within_each_group_and_the_earlier_of_equal_scores_is_first() -> None:
    score = torch.tensor([[5.0, 9.0, 9.0, 1.0, 2.0, 7.0, 3.0], [1.0, 2, 3, 4, 5, 6, 7]])
    group = torch.tensor([[0, 0, 1, 1, 1, -1, 0], [2, 2, 2, 2, 2, 2, 2]])
    assert rank_in_group(score, group).tolist() == [[1, 0, 0, 2, 1, 0, 2], [6, 5, 4, 3, 2, 1, 0]]
    assert rank_in_group(torch.ones(4), torch.tensor([3, 1, 3, 1])).tolist() == [0, 0, 1, 1]
