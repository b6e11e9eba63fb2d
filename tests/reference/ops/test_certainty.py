"""Perplexity and margin: hand-worked, and their limits."""

from __future__ import annotations

import math

import pytest
import torch

from lvlm_atlas.reference.ops.certainty import margin_uncertainty, perplexity


def test_the_perplexity_is_the_inverse_geometric_mean_of_the_probabilities() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
    assert perplexity(logits, torch.tensor([0, 1])) == pytest.approx((0.5 * 0.1) ** -0.5, rel=1e-6)
    assert perplexity(logits + 7, torch.tensor([0, 1])) == pytest.approx((0.5 * 0.1) ** -0.5, rel=1e-6)
    assert perplexity(logits[:1], torch.tensor([1])) == pytest.approx(4)


def test_a_repeated_answer_is_as_sure_as_one_of_its_parts() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([0, 3, 2, 6, 6])
    assert perplexity(logits.repeat(4, 1), tokens.repeat(4)) == pytest.approx(perplexity(logits, tokens))


@pytest.mark.parametrize("vocabulary", [2, 9])
def test_perplexity_lies_between_one_and_the_vocabulary_of_an_even_guess(vocabulary: int) -> None:
    tokens = torch.zeros(3, dtype=torch.long)
    assert perplexity(torch.zeros(3, vocabulary), tokens) == pytest.approx(vocabulary)
    sure = torch.zeros(3, vocabulary)
    sure[:, 0] = 1000
    assert perplexity(sure, tokens) == 1
    assert math.isinf(perplexity(sure, tokens + 1))


def test_an_answer_without_tokens_has_no_perplexity() -> None:
    with pytest.raises(ValueError, match="at least one token, got none"):
        perplexity(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_the_margin_is_between_the_two_likeliest_tokens() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.3], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]).log()
    torch.testing.assert_close(margin_uncertainty(logits), torch.tensor([0.8, 1.0, 0.0]))
