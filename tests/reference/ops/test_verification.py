"""Verification of drafted tokens by their distributions."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.ops.verification import verify


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def test_a_token_that_the_draft_underrates_is_always_accepted() -> None:
    accepted, _ = verify(tensor([0.9, 0.1], [0.5, 0.5]), tensor([0.4, 0.6]), torch.tensor([0]), torch.tensor([1.0]))
    assert accepted == 1


@given(seed=st.integers(0, 10**6), uniform=st.lists(st.floats(1e-9, 1), min_size=3, max_size=3))
@settings(max_examples=20)
def test_a_draft_that_equals_the_target_is_always_accepted(seed: int, uniform: list[float]) -> None:
    p = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    accepted, after = verify(p, p[:3], torch.tensor([0, 5, 2]), torch.tensor(uniform, dtype=torch.float64))
    assert accepted == 3
    assert torch.equal(after, p[3].double())
