"""Temperature, nucleus and draw."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.ops.sampling import distribution, draw, nucleus


def test_the_nucleus_is_the_fewest_likeliest_tokens_that_reach_the_sum() -> None:
    probability = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert nucleus(probability, 0.5).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    torch.testing.assert_close(nucleus(probability, 0.51), torch.tensor([[0.0, 2 / 3, 0.0, 1 / 3]]))
    torch.testing.assert_close(nucleus(probability, 0.9), torch.tensor([[0.0, 5 / 9, 1.5 / 9, 2.5 / 9]]))


def test_the_likeliest_token_always_stays() -> None:
    assert nucleus(torch.tensor([0.4, 0.6]), 0.0).tolist() == [0.0, 1.0]


@given(seed=st.integers(0, 10**6), temperature=st.floats(0.1, 3), top_p=st.floats(0.01, 1), size=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_it_equals_transformers_warpers(seed: int, temperature: float, top_p: float, size: int) -> None:
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(seed)) * 3
    warped = process.TopPLogitsWarper(top_p)(None, process.TemperatureLogitsWarper(temperature)(None, logits))
    torch.testing.assert_close(distribution(logits, temperature, top_p), warped.softmax(-1), rtol=1e-4, atol=1e-6)


def test_a_draw_follows_its_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.tensor([0.2, 0.0, 0.8])
    draws = torch.tensor([draw(probability, generator) for _ in range(2000)])
    assert float((draws == 0).float().mean()) == pytest.approx(0.2, abs=0.03)
    assert int((draws == 1).sum()) == 0
