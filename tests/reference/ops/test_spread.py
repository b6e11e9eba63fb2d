"""How far attention spreads: uniform, peaked and causal maps by hand, and loops."""

from __future__ import annotations

from math import log

import pytest
import torch

from lvlm_atlas.reference.ops.attention import causal_mask
from lvlm_atlas.reference.ops.spread import attention_entropy, attention_sparsity


def test_uniform_attention_is_not_sparse_and_one_entry_alone_is_as_sparse_as_can_be(device: str) -> None:
    maps = torch.stack([torch.full((4, 8), 1 / 8), torch.eye(8)[:4]])[None].to(device)
    assert attention_sparsity(maps, 0.01).tolist() == [[0.0, 7 / 8]]
    torch.testing.assert_close(attention_entropy(maps).cpu(), torch.tensor([[log(8), 0.0]]))


def test_the_threshold_is_relative_to_each_row_and_strict() -> None:
    rows = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25]])[None, None]
    assert attention_sparsity(rows, 0.25).item() == pytest.approx(2 / 6)  # below 0.2; 0.125 · 2 is not below 0.125
    assert attention_sparsity(rows, 0.5).item() == pytest.approx(2 / 6)  # 0.25 is not below 0.25


def test_entries_that_a_row_may_not_see_do_not_count(device: str) -> None:
    visible = causal_mask(4, torch.device(device))[-2:]
    logits = torch.zeros(1, 2, 2, 4, device=device).masked_fill(~visible, float("-inf"))
    assert attention_sparsity(logits.softmax(-1), 0.01, visible).tolist() == [[0.0, 0.0]]
    assert attention_sparsity(logits.softmax(-1), 0.01).tolist() == [[1 / 8, 1 / 8]]
    logits[:, 1, :, 0] = 20
    assert attention_sparsity(logits.softmax(-1), 0.01, visible)[0, 1].item() == pytest.approx(5 / 7)


def test_entropy_is_the_mean_over_rows_and_bare_of_nan() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)[None, None]
    assert attention_entropy(rows).item() == pytest.approx(log(2) / 2)
    weight = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    by_library = torch.distributions.Categorical(probs=weight).entropy().mean(-1)
    torch.testing.assert_close(attention_entropy(weight), by_library)
