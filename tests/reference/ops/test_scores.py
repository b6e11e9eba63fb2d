"""Scores from attention: against loops, and by hand at the edges of windows and kernels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.ops.attention import causal_mask
from lvlm_atlas.reference.ops.scores import (
    accumulated_attention,
    attention_per_row,
    carried_over,
    group_heads,
    pool_scores,
    windowed_attention,
)


def rows(heads: int, window: int, entries: int, seed: int = 0) -> Tensor:
    """The last rows (2, H, R, S) of a causal map, float64."""
    logits = torch.randn(2, heads, entries, entries, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    seen = causal_mask(entries, logits.device)
    return logits.masked_fill(~seen, float("-inf")).softmax(-1)[:, :, entries - window :]


def test_heads_of_a_group_are_neighbours(device: str) -> None:
    score = torch.tensor([[[1.0], [3.0], [10.0], [30.0]]], device=device)
    assert group_heads(score, 2).tolist() == [[[2.0], [20.0]]]
    assert group_heads(score, 2, "max").tolist() == [[[3.0], [30.0]]]
    assert group_heads(score, 4, "max").equal(group_heads(score, 4))


@given(st.integers(1, 6), st.data())
def test_accumulated_and_normalised_scores_are_those_of_plain_loops(entries: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, entries))
    weight = rows(4, window, entries)
    total, per_row = accumulated_attention(weight, 2), attention_per_row(weight, 2)
    for b, g, s in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(entries)).tolist():
        heads = weight[b, 2 * g : 2 * g + 2, :, s]
        expected = float(heads.sum()) / 2
        assert total[b, g, s].item() == pytest.approx(expected)
        seeing = sum(entries - window + row >= s for row in range(window))
        assert per_row[b, g, s].item() == pytest.approx(expected / seeing)


def test_an_entry_that_every_row_sees_alike_scores_alike_wherever_it_stands(device: str) -> None:
    each_half = torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.5]], device=device)[None, None]
    assert attention_per_row(each_half, 1).tolist() == [[[0.5, 0.5, 0.5]]]
    assert accumulated_attention(each_half, 1).tolist() == [[[1.5, 1.0, 0.5]]]


@given(st.integers(1, 6), st.sampled_from(["mean", "max"]), st.data())
def test_a_window_scores_what_lies_before_it(entries: int, how: str, data: st.DataObject) -> None:
    window = data.draw(st.integers(0, entries))
    weight = rows(4, window, entries)
    score = windowed_attention(weight, 2, how)  # type: ignore[arg-type]
    assert score.shape == (2, 2, entries - window)
    for b, g, s in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(entries - window)).tolist():
        votes = [float(weight[b, head, :, s].sum()) for head in (2 * g, 2 * g + 1)]
        assert score[b, g, s].item() == pytest.approx(max(votes) if how == "max" else sum(votes) / 2)


def test_the_maximum_is_taken_over_sums_and_not_summed_over_maxima(device: str) -> None:
    weight = torch.tensor([[[[0.6, 0.4, 0.0], [0.1, 0.1, 0.8]], [[0.2, 0.8, 0.0], [0.4, 0.1, 0.5]]]], device=device)
    torch.testing.assert_close(windowed_attention(weight, 1, "max").cpu(), torch.tensor([[[0.7]]]))


def test_a_window_longer_than_the_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="the window must be among the 3 entries, got 4 rows"):
        windowed_attention(torch.ones(1, 1, 4, 3), 1)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), st.sampled_from([1, 3, 5, 7]))
def test_pooling_is_that_of_plain_loops_with_zeros_beyond_the_ends_in_the_mean(scores: list[int], kernel: int) -> None:
    score = torch.tensor([[scores, scores]], dtype=torch.float64)
    half = kernel // 2
    around = [scores[max(0, s - half) : s + half + 1] for s in range(len(scores))]
    assert pool_scores(score, kernel)[0, 1].tolist() == pytest.approx([sum(part) / kernel for part in around])
    assert pool_scores(score, kernel, "max")[0, 0].tolist() == [max(part) for part in around]


def test_a_kernel_of_one_changes_nothing_and_no_entries_stay_none(device: str) -> None:
    score = torch.rand(2, 3, 8, device=device)
    assert torch.equal(pool_scores(score, 1), score)
    assert pool_scores(score[..., :0], 5, "max").shape == (2, 3, 0)


@pytest.mark.parametrize("kernel", [0, 4, -3])
def test_a_kernel_that_would_shift_scores_is_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=rf"kernel must be odd and at least 1, got {kernel}"):
        pool_scores(torch.ones(1, 1, 8), kernel)


def test_scores_are_carried_over_by_token(device: str) -> None:
    score = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]], device=device)
    index = torch.tensor([[[0, 2, 5], [1, 2, 3]]], device=device)
    now = torch.tensor([[[2, 5, 6, 7], [1, 3, 6, 7]]], device=device)
    assert carried_over(score, index, now).tolist() == [[[2, 3, 0, 0], [4, 6, 0, 0]]]
    assert carried_over(score[..., :0], index[..., :0], now).tolist() == [[[0] * 4] * 2]
