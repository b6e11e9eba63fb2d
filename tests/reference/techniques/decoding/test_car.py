"""CAR: the two Gaussians, the posterior, and at most two rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.ops.certainty import perplexity
from lvlm_atlas.reference.techniques.decoding.car import Car, Certainty, Gaussian, fit, short_answer

SURE = Certainty(Gaussian(1.0, 1.0), Gaussian(1.0, 1.0), 1.0)
UNSURE = replace(SURE, share_right=0.0)


def test_the_perplexity_is_the_inverse_geometric_mean_of_the_probabilities(device: str) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.5, 0.25, 0.25]], device=device).log()
    assert perplexity(logits, torch.tensor([0, 1, 1])) == pytest.approx((0.5 * 0.1 * 0.25) ** (-1 / 3), rel=1e-6)


def test_the_fit_is_mean_and_deviation_of_each_class_and_the_share_of_the_right() -> None:
    fitted = fit(torch.tensor([1.0, 3.0, 10.0, 14.0, 12.0]), torch.tensor([True, True, False, False, False]))
    assert fitted.right == Gaussian(2.0, 1.0)
    assert (fitted.wrong.mean, fitted.share_right) == (12, pytest.approx(0.4))
    assert fitted.wrong.deviation == pytest.approx((8 / 3) ** 0.5)


def test_equal_widths_and_priors_part_in_the_middle() -> None:
    fitted = Certainty(Gaussian(2.0, 0.5), Gaussian(4.0, 0.5), 0.5)
    assert fitted.posterior(3.0) == pytest.approx(0.5)
    assert fitted.posterior(2.9) > 0.5 > fitted.posterior(3.1)


@pytest.mark.parametrize("value", [1.0, 1.7, 2.5, 6.0])
def test_the_posterior_is_bayes_rule(value: float) -> None:
    normal = torch.distributions.Normal
    fitted = Certainty(Gaussian(1.5, 0.3), Gaussian(3.0, 1.5), 0.7)
    right = 0.7 * float(normal(1.5, 0.3).log_prob(torch.tensor(value)).exp())
    wrong = 0.3 * float(normal(3.0, 1.5).log_prob(torch.tensor(value)).exp())
    assert fitted.posterior(value) == pytest.approx(right / (right + wrong), rel=1e-4)


def test_far_outside_the_wider_gaussian_wins() -> None:
    fitted = Certainty(Gaussian(5.0, 0.5), Gaussian(8.0, 3.0), 0.5)
    assert fitted.posterior(5.0) > 0.5
    assert fitted.posterior(1.0) < 0.5
    assert fitted.posterior(20.0) < 0.5


@pytest.mark.parametrize("value", [-1e6, 1e6, 1e12])
def test_a_posterior_is_there_however_far_outside(value: float) -> None:
    fitted = Certainty(Gaussian(2.0, 0.5), Gaussian(4.0, 0.4), 0.5)
    assert fitted.posterior(value) == pytest.approx(1.0)
    assert Certainty(fitted.wrong, fitted.right, 0.5).posterior(value) == pytest.approx(0.0)


def test_a_class_of_one_sample_or_of_none_can_be_fitted() -> None:
    one = fit(torch.tensor([2.0, 5.0, 6.0]), torch.tensor([True, False, False]))
    assert one.right.mean == 2
    assert one.right.deviation > 0
    assert one.posterior(2.0) > 0.99
    assert one.posterior(5.5) < 0.01
    assert fit(torch.tensor([2.0]), torch.tensor([True])).posterior(50.0) == 1
    assert fit(torch.tensor([2.0, 3.0]), torch.tensor([False, False])).posterior(2.0) == 0


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        Car().calibrate(LVLM.random(), [])


def test_a_short_answer_is_the_beginning_of_the_greedy_answer(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=6)
    with torch.inference_mode():
        tokens, logits = short_answer(lvlm, request, 4)
    whole = lvlm.run(request)
    assert torch.equal(tokens.cpu(), whole.tokens_N[:4])
    torch.testing.assert_close(logits, whole.logits_NC[:4], rtol=1e-4, atol=1e-4)


def test_without_a_judge_the_least_perplexities_count_as_right(device: str) -> None:
    lvlm = LVLM.random(device=device)
    samples = [random_request(lvlm.config, frames=1, seed=seed) for seed in range(4)]
    with torch.inference_mode():
        answers = [short_answer(lvlm, sample, 3) for sample in samples]
    values = sorted(perplexity(logits, tokens) for tokens, logits in answers)
    fitted = Car(short_tokens=3).calibrate(lvlm, samples).calibration
    assert fitted is not None
    assert fitted.share_right == 0.75
    assert fitted.right.mean == pytest.approx(sum(values[:3]) / 3)
    assert fitted.wrong.mean == pytest.approx(values[3])


def test_a_judge_says_what_is_right(device: str) -> None:
    lvlm = LVLM.random(device=device)
    samples = [random_request(lvlm.config, frames=1, seed=seed) for seed in range(4)]
    judged: list[int] = []

    def judge(_request: object, tokens: torch.Tensor) -> bool:
        judged.append(len(tokens))
        return len(judged) == 1

    fitted = Car(short_tokens=3, judge=judge).calibrate(lvlm, samples).calibration
    assert judged == [3] * 4
    assert fitted is not None
    assert fitted.share_right == 0.25


def test_a_request_that_is_asked_again_costs_both_answers(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=9)
    plain = lvlm.run(request)
    result = lvlm.run(request, [Car(short_tokens=4, calibration=UNSURE)])
    assert [each.result.trace.output_tokens for each in result.rounds] == [4, 9]
    assert torch.equal(result.tokens_N, plain.tokens_N)
    assert result.trace.output_tokens == 13
    assert sum(result.trace.llm_tokens) == 2 * sum(plain.trace.llm_tokens)


def test_a_trusted_short_answer_stands(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=2, max_new_tokens=9)
    result = lvlm.run(request, [Car(short_tokens=4, calibration=SURE)])
    assert len(result.rounds) == 1
    assert torch.equal(result.tokens_N, lvlm.run(request).tokens_N[:4])


def test_the_threshold_is_held_against_the_posterior_of_this_answer(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=6)
    short = lvlm.run(replace(request, max_new_tokens=2))
    value = perplexity(short.logits_NC, short.tokens_N)
    even = Certainty(Gaussian(value - 1, 1.0), Gaussian(value + 1.5, 1.0), 0.5)
    chance = even.posterior(value)
    assert 0.5 < chance < 0.99
    for threshold, rounds in ((chance - 0.01, 1), (chance + 0.01, 2)):
        technique = Car(threshold=threshold, short_tokens=2, calibration=even)
        assert len(lvlm.run(request, [technique]).rounds) == rounds


@pytest.mark.parametrize("most", [4, 3])
def test_where_nothing_longer_may_be_said_there_is_no_second_round(most: int, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1, max_new_tokens=most)
    assert len(lvlm.run(request, [Car(short_tokens=4, calibration=UNSURE)]).rounds) == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("threshold", -0.1, r"threshold must lie in \[0, 1\]"), ("short_tokens", 0, "short_tokens must be at least 1")],
)
def test_illegal_parameters_are_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Car(**{name: value})  # type: ignore[arg-type]
