"""Vertical-slash attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.ops.attention import causal_mask
from lvlm_atlas.reference.techniques.prefilling.sliding_window_attention import SlidingWindowAttention, in_sight
from lvlm_atlas.reference.techniques.prefilling.sparse_pattern import (
    SparsePattern,
    ahead_of_all,
    column_and_diagonal_sums,
    vertical_slash,
)

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def pattern(column: Tensor, diagonal: Tensor, columns: int, diagonals: int) -> Tensor:
    """With the first 30 columns and the 100 nearest diagonals ahead of all."""
    return vertical_slash(ahead_of_all(column, 30), ahead_of_all(diagonal, 100), columns, diagonals)


def last_rows(length: int, rows: int, device: str, heads: int = 2) -> Tensor:
    """Softmax rows (1, H, R, N) of the last tokens."""
    logit = torch.randn(1, heads, length, length, generator=torch.Generator().manual_seed(length)).to(device)
    weight = logit.masked_fill(~causal_mask(length, logit.device), float("-inf")).softmax(-1)
    return weight[:, :, length - rows :]


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (7, 3), (7, 7), (20, 1), (41, 16)])
def test_sums_are_those_of_a_loop(device: str, length: int, rows: int) -> None:
    weight, places = last_rows(length, rows, device), torch.arange(length - rows, length, device=device)
    column, diagonal = (torch.zeros(1, 2, length, device=device) for _ in range(2))
    for r in range(rows):
        query = length - rows + r
        for key in range(query + 1):
            column[:, :, key] += weight[:, :, r, key]
            diagonal[:, :, query - key] += weight[:, :, r, key]
    for found, expected in zip(column_and_diagonal_sums(weight, places), (column, diagonal), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_diagonal_is_a_distance_in_the_prompt(device: str) -> None:
    weight = torch.zeros(1, 1, 3, 200, device=device)
    for r in range(3):
        weight[0, 0, r, 197 + r - 150] = 1  # the last three queries look 150 tokens back
    column, diagonal = column_and_diagonal_sums(weight, torch.arange(197, 200, device=device))
    assert diagonal[0, 0].nonzero()[:, 0].tolist() == [150]
    assert float(diagonal[0, 0, 150]) == 3
    keep = pattern(torch.zeros_like(column), diagonal, 30, 101)[0, 0]
    place = torch.arange(200, device=device)
    distance = place[:, None] - place
    assert torch.equal(keep, (distance >= 0) & ((place < 30) | (distance < 100) | (distance == 150)))


def test_what_is_always_taken_is_part_of_the_sizes(device: str) -> None:
    score = torch.arange(300, device=device).float()[None, None]  # the last columns, the farthest diagonals
    keep = pattern(score, score, 40, 120)[0, 0]
    assert keep[290].tolist() == [  # columns 290 … 299 are the best; diagonals 280 … 299
        j < 30 or 290 - j < 100 or 290 - j >= 280 for j in range(291)
    ] + [False] * 9  # fmt: skip
    assert keep[299, :].sum() == 30 + 100  # the 20 diagonals end in the first columns, the 10 columns in near diagonals


def test_pairs_on_either_kind_of_line_are_computed(device: str) -> None:
    column, diagonal = (torch.zeros(1, 1, 250, device=device) for _ in range(2))
    column[..., 70], diagonal[..., 160] = 1, 1
    keep = pattern(column, diagonal, 31, 101)[0, 0]
    assert bool(keep[70:, 70].all())
    assert bool(keep.diagonal(-160).all())
    assert not bool(keep[240, 71:80].any())
    assert not bool(keep.triu(1).any())


def test_each_head_chooses_for_itself(device: str) -> None:
    column = torch.zeros(1, 2, 250, device=device)
    column[0, 0, 70], column[0, 1, 90] = 1, 1
    keep = pattern(column, torch.zeros_like(column), 31, 100)[0]
    assert keep[:, 249, 70].tolist() == [True, False]
    assert keep[:, 249, 90].tolist() == [False, True]


@pytest.mark.parametrize(("length", "vertical", "slash"), [(40, 30, 50), (140, 30, 120), (200, 100, 100)])
def test_a_short_prompt_is_dense(device: str, length: int, vertical: int, slash: int) -> None:
    score = torch.arange(length, device=device).float()[None, None]
    assert torch.equal(pattern(score * 0, score * 0, vertical, slash)[0, 0], causal_mask(length, score.device)) == (
        length <= vertical + slash
    )


@pytest.mark.parametrize(("length", "vertical", "slash"), [(300, 30, 50), (300, 200, 60), (50, 30, 50)])
def test_with_nothing_looked_at_it_is_the_a_shape(device: str, length: int, vertical: int, slash: int) -> None:
    nothing = torch.zeros(1, 1, length, device=device)
    keep = pattern(nothing, nothing, vertical, slash)[0, 0]
    assert torch.equal(keep, in_sight(length, slash, vertical, nothing.device))
    hidden = max(0, length - vertical - slash)  # as the entry has it
    assert 2 * int(keep.sum()) == length * (length + 1) - hidden * (hidden + 1)


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_computes_more_than_the_first_columns_and_the_nearest_diagonals(device: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    column, diagonal = (torch.rand(1, 3, 260, generator=generator).to(device) for _ in range(2))
    counts = pattern(column, diagonal, 50, 130).sum((-1, -2))[0]
    most = int(pattern(column * 0, diagonal * 0, 50, 130)[0, 0].sum())
    least = int(pattern(column * 0, diagonal * 0, 30, 100)[0, 0].sum())
    assert bool(((counts < most) & (counts > least)).all())


def test_of_fewer_diagonals_than_are_always_taken_the_nearest_stay(device: str) -> None:
    score = torch.arange(200, device=device).float()[None, None]
    keep = pattern(score * 0, score, 30, 60)[0, 0]
    assert torch.equal(keep, in_sight(200, 60, 30, score.device))


def test_the_fixed_pattern_is_sliding_window_attention(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    fixed = lvlm.run(request, [SparsePattern(vertical_size=30, slash_size=60, probe_queries=0)])
    window = lvlm.run(request, [SlidingWindowAttention(60, 30)])
    torch.testing.assert_close(fixed.logits_NC, window.logits_NC, **CLOSE)
    assert fixed.trace.score_entries == window.trace.score_entries
    assert fixed.trace.probe_entries == 0


def test_the_last_queries_are_dense(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    setting = {"vertical_size": 30, "slash_size": 60, "probe_queries": 0}
    some, all_ = (lvlm.run(request, [SparsePattern(**setting, dense_queries=n)]) for n in (10, 400))
    plain = lvlm.run(request)
    torch.testing.assert_close(all_.logits_NC, plain.logits_NC, **CLOSE)
    assert some.trace.score_entries == [4 * (400 * 401 // 2 - 300 * 301 // 2)] * 4


def test_a_run_counts_its_probe_and_chooses_by_it(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    setting = {"vertical_size": 40, "slash_size": 120}
    result = lvlm.run(request, [SparsePattern(**setting, probe_queries=16)])
    fixed = lvlm.run(request, [SparsePattern(**setting, probe_queries=0)])
    assert result.trace.probe_entries == 4 * 4 * sum(range(385, 401))
    assert all(n < most for n, most in zip(result.trace.score_entries, fixed.trace.score_entries, strict=True))
    assert result.trace.kv_entries == [400] * 4
    assert not torch.allclose(result.logits_NC, fixed.logits_NC, atol=1e-3)


def test_sizes_over_the_prompt_change_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [SparsePattern()])
    torch.testing.assert_close(same.logits_NC, plain.logits_NC, **CLOSE)
    assert same.trace.score_entries == plain.trace.score_entries


@pytest.mark.parametrize(
    "wrong",
    [
        {"vertical_size": -1},
        {"slash_size": 0},
        {"probe_queries": -1},
        {"dense_queries": -1},
        {"first_columns": -1},
        {"nearest_diagonals": 0},
    ],
)
def test_illegal_values_are_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SparsePattern(**wrong)
