"""Temperature, nucleus and draw."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.ops.sampling import distribution, draw, draw_places, nucleus


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


def test_places_are_drawn_without_replacement_as_one_by_one() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(draw_places(logits, 2, generator).tolist()) for _ in range(4000)]
    weight = logits.exp()
    for first, second in ((0, 1), (1, 2), (2, 1), (2, 0)):
        expected = float(weight[first] / weight.sum() * weight[second] / (weight.sum() - weight[first]))
        assert drawn.count((first, second)) / len(drawn) == pytest.approx(expected, abs=0.02)


def test_places_of_no_weight_are_drawn_last_and_none_twice() -> None:
    logits = torch.tensor([-5000.0, 0.0, -9000.0, 0.0])
    for seed in range(20):
        drawn = draw_places(logits, 4, torch.Generator().manual_seed(seed)).tolist()
        assert {*drawn[:2]} == {1, 3}
        assert drawn[2:] == [0, 2]


@pytest.mark.parametrize("draws", [-1, 4])
def test_more_places_than_there_are_cannot_be_drawn(draws: int) -> None:
    with pytest.raises(ValueError, match="draws must be in"):
        draw_places(torch.zeros(3), draws, torch.Generator())
