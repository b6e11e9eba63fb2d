"""FitPrune: the scores, what a tolerance lets go, the budget, and the scheme in use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.lab.built import samples
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.presets import PRESETS
from lvlm_atlas.reference.techniques.prefilling.fitprune import (
    FitPrune,
    deletable,
    flop,
    intersection,
    least,
    received,
    within_budget,
)

SHAPE = PRESETS["tiny"].text


def test_scores_take_the_heads_maximum() -> None:
    """A token of text, two of vision, two of text; rows from the first vision token on."""
    one = torch.tensor([[0.5, 0.5, 0, 0, 0], [0.2, 0.3, 0.5, 0, 0], [0.1, 0.1, 0.3, 0.5, 0], [0.4, 0, 0.1, 0.1, 0.4]])
    two = torch.tensor([[0.9, 0.1, 0, 0, 0], [0.1, 0.6, 0.3, 0, 0], [0.1, 0.4, 0.1, 0.4, 0], [0.4, 0.2, 0.0, 0.1, 0.3]])
    cross, self_ = received(torch.stack([one, two]), torch.tensor([1, 2]))
    torch.testing.assert_close(cross, torch.tensor([(0.4 + 0.2) / 2, (0.3 + 0.1) / 2]).double(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(self_, torch.tensor([(0.5 + 0.6) / 2, 0.5 / 2]).double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("alpha", "places"), [(0.0, []), (0.1, [2]), (0.29, [2]), (0.31, [2, 0]), (1.0, [2, 0, 3])])
def test_as_many_of_the_smallest_go_as_the_tolerance_lets(alpha: float, places: list[int]) -> None:
    score = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64)
    assert deletable(score, 1.0, alpha).tolist() == places


def test_the_tolerance_is_of_the_sum_without_pruning() -> None:
    score = torch.tensor([0.1, 0.3, 0.4], dtype=torch.float64)  # 0.2 of 1.0 is gone already
    assert deletable(score, 1.0, 0.25).tolist() == []
    assert deletable(score, 1.0, 0.35).tolist() == [0]
    assert deletable(score, float(score.sum()), 0.25).tolist() == [0]


def test_only_what_both_scores_let_go_is_deleted() -> None:
    cross = torch.tensor([0.1, 0.1, 0.4, 0.4], dtype=torch.float64)
    self_ = torch.tensor([0.4, 0.1, 0.1, 0.4], dtype=torch.float64)
    assert intersection(cross, self_, (1.0, 1.0), 0.25).tolist() == [1]
    assert intersection(cross, self_, (1.0, 1.0), 0.05).tolist() == []


@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 30), alpha=st.floats(0, 1))
@settings(max_examples=60)
def test_enough_of_the_sum_is_left_and_one_token_at_least(seed: int, tokens: int, alpha: float) -> None:
    score = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)).double()
    gone = deletable(score, float(score.sum()), alpha)
    assert len(gone) < tokens
    assert float(score.sum() - score[gone].sum()) >= float(score.sum()) * (1 - alpha) - 1e-12
    assert len(gone) <= len(deletable(score, float(score.sum()), min(1.0, alpha + 0.1)))


def test_tokens_go_by_the_product_of_both_scores() -> None:
    cross, self_ = torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.1, 0.5, 0.6])
    assert least(cross, self_, 1).tolist() == [2]
    assert least(cross, self_, 2).tolist() == [0, 2]
    assert least(torch.ones(3), torch.ones(3), 2).tolist() == [0, 1]


def test_nothing_is_deleted_once_the_budget_is_met() -> None:
    full = flop([100] * 3, [0] * 3, SHAPE)
    deleted = [[60, 20, 10]]
    kept, reached = within_budget([100], deleted, SHAPE, 1 - flop([100, 40, 40], [60, 0, 0], SHAPE) / full - 1e-9)
    assert (kept, reached) == ([[60, 0, 0]], True)
    kept, reached = within_budget([100], deleted, SHAPE, 1 - flop([100, 40, 20], [60, 20, 0], SHAPE) / full - 1e-9)
    assert (kept, reached) == ([[60, 20, 0]], True)
    assert within_budget([100], deleted, SHAPE, 0.0) == ([[0, 0, 0]], True)
    assert within_budget([100], deleted, SHAPE, 0.99) == (deleted, False)


@pytest.mark.parametrize("reduction", [0.3, 0.6])
def test_a_calibrated_run_costs_what_the_budget_says(reduction: float, device: str) -> None:
    lvlm = LVLM.random(device=device)
    requests = samples(lvlm)
    technique = FitPrune(reduction).calibrate(lvlm, requests)
    costs = []
    for request in requests:
        counts = lvlm.run(request, [technique]).trace.llm_vision_tokens
        deleted = [a - b for a, b in zip(counts, [*counts[1:], counts[-1]], strict=True)]
        costs.append(flop(counts, deleted, SHAPE) / flop([counts[0]] * 4, [0] * 4, SHAPE))
    assert sum(costs) / len(costs) == pytest.approx(1 - reduction, abs=0.06)


def test_a_larger_reduction_leaves_fewer_tokens(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    counts = [
        sum(lvlm.run(request, [FitPrune(r).calibrate(lvlm, samples(lvlm))]).trace.llm_vision_tokens)
        for r in (0.0, 0.3, 0.6, 0.9)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 4 * 384


def test_the_scheme_is_a_share_of_the_requests_tokens(device: str) -> None:
    lvlm = LVLM.random(device=device)
    technique = FitPrune(calibration=(0.25, 0.0, 0.5, 0.0))
    for frames in (1, 3):
        trace = lvlm.run(random_request(lvlm.config, frames=frames), [technique]).trace
        vision = 64 * frames
        assert trace.llm_vision_tokens == [vision, vision * 3 // 4, vision * 3 // 4, vision // 4]


def test_the_least_attended_tokens_of_the_layer_before_are_gone(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1)
    observed = lvlm.observe(request)
    probe, place = observed.attention[1][0], observed.inputs.vision_places()[0]
    with torch.inference_mode():
        map_ = probe.rows()[0].amax(0)
    cross, self_ = map_[int(place[-1]) + 1 :, place].sum(0), map_[place][:, place].sum(0)
    gone = place[(cross * self_).sort().indices[:16]].sort().values
    trace = lvlm.run(request, [FitPrune(calibration=(0.0, 0.25, 0.0, 0.0))]).trace
    assert [len(each[0]) for each in trace.kept] == [80, 80, 64, 64]
    assert set(range(80)) - set(trace.kept[2][0].tolist()) == set(gone.tolist())


def test_one_vision_token_stays(device: str) -> None:
    lvlm = LVLM.random(device=device)
    technique = FitPrune(calibration=(0.9, 0.9, 0.9, 0.0))
    counts = lvlm.run(random_request(lvlm.config, frames=1), [technique]).trace.llm_vision_tokens
    assert counts == [64, 7, 1, 1]


def test_layers_that_delete_nothing_form_no_map(device: str) -> None:
    lvlm = LVLM.random(device=device)
    trace = lvlm.run(random_request(lvlm.config, frames=1), [FitPrune(calibration=(0.0, 0.0, 0.0, 0.0))]).trace
    assert trace.probe_entries == 0


def test_a_scheme_of_another_model_is_refused(device: str) -> None:
    lvlm = LVLM.random("tiny-mha", device=device)
    with pytest.raises(Refusal, match="calibrated for 4 layers, got 3"):
        lvlm.run(random_request(lvlm.config), [FitPrune(calibration=(0.1, 0.1, 0.1, 0.0))])


def test_a_prompt_without_text_after_the_vision_tokens_is_refused(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, frames=1)
    words = request.prompt_N[request.prompt_N != request.image_token_id]
    ending = replace(request, prompt_N=torch.cat([words, torch.tensor([request.image_token_id])]))
    with pytest.raises(Refusal, match="text after the last vision token"):
        lvlm.run(ending, [FitPrune(calibration=(0.1, 0.1, 0.1, 0.0))])


def test_it_is_calibrated_on_samples() -> None:
    with pytest.raises(ValueError, match="calibrated on samples, got none"):
        FitPrune().calibrate(LVLM.random(), [])


def test_a_reduction_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"reduction must lie in \[0, 1\), got 1"):
        FitPrune(reduction=1.0)
