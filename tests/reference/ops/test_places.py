"""Places of a mask: by hand, against brute force, and uneven rows refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvlm_atlas.reference.ops.places import mask_of, places_of, take, take_columns


def test_places_by_hand_in_reading_order() -> None:
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]])
    assert places_of(mask).tolist() == [[0, 2, 3], [1, 2, 3]]
    assert places_of(mask[None]).tolist() == [[[0, 2, 3], [1, 2, 3]]]


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param([[1, 0, 0], [1, 1, 1]], id="the total divides, so that a reshape would go through"),
        pytest.param([[[1, 1, 0], [1, 0, 0]], [[1, 1, 0], [1, 0, 0]]], id="heads that differ alike in both sequences"),
        pytest.param([[0, 0], [1, 0]], id="one row selects nothing"),
    ],
)
def test_uneven_rows_are_refused_rather_than_mixed_up(mask: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"select equally many of its \d places, got [\d, ]+; rank the scores"):
        places_of(torch.tensor(mask).bool())


@given(shape=st.sampled_from([(1,), (3,), (2, 2)]), length=st.integers(1, 6), data=st.data())
def test_places_and_what_stands_there_equal_a_loop(shape: tuple[int, ...], length: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, length))
    rows = torch.Size(shape).numel()
    picks = [sorted(data.draw(st.permutations(range(length)))[:count]) for _ in range(rows)]
    mask = torch.zeros(rows, length, dtype=torch.bool)
    for row, pick in enumerate(picks):
        mask[row, pick] = True
    index = places_of(mask.reshape(*shape, length))
    assert index.shape == (*shape, count)
    assert index.reshape(rows, count).tolist() == picks
    x = torch.arange(rows * length * 2).reshape(*shape, length, 2)
    by_hand = torch.stack([x.reshape(rows, length, 2)[row, pick] for row, pick in enumerate(picks)])
    assert torch.equal(take(x, index), by_hand.reshape(*shape, count, 2))


@given(shape=st.sampled_from([(), (3,), (2, 2)]), length=st.integers(1, 6), data=st.data())
def test_a_mask_and_its_places_undo_each_other(shape: tuple[int, ...], length: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, length))
    rows = [data.draw(st.permutations(range(length)))[:count] for _ in range(torch.Size(shape).numel())]
    index = torch.tensor(rows, dtype=torch.long).reshape(*shape, count)
    mask = mask_of(index, length)
    assert mask.shape == (*shape, length)
    assert torch.equal(places_of(mask), index.sort(dim=-1).values)


def test_columns_of_attention_rows_follow_the_sequence_and_not_the_row() -> None:
    weight = torch.arange(24.0).reshape(2, 2, 2, 3)
    picked = take_columns(weight, torch.tensor([[0, 2], [1, 2]]))
    assert torch.equal(picked[0], weight[0][..., [0, 2]])
    assert torch.equal(picked[1], weight[1][..., [1, 2]])
