"""Unified spatiotemporal compression."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.techniques.prefilling.fastv import FastV
from lvlm_atlas.reference.techniques.prefilling.unified_spatiotemporal_compression import (
    UnifiedCompression,
    compress,
    importance,
    merged_into,
    pool,
)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def directions(*degrees: float, device: str = "cpu") -> Tensor:
    """Unit vectors (V, 2) at these angles."""
    angle = torch.tensor(degrees, dtype=torch.float64, device=device).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def test_a_token_like_one_in_the_pool_is_passed_over(device: str) -> None:
    # Cosine 0.7 is 45.6°: 30° is too like 0°, and so is 60° like 90°; but 60° and 0° are no pair, nor 30° and 90°.
    x = directions(0, 30, 60, 90, device=device)
    contribution = torch.tensor([4.0, 3, 2, 3.5], device=device)
    assert pool(x, contribution, 4, 0.7).tolist() == [0, 3]
    # 30° was passed over itself and keeps nobody away: without 90°, 60° joins though it resembles 30°.
    assert pool(x[:3], contribution[:3], 3, 0.7).tolist() == [0, 2]
    assert pool(x, contribution, 1, 0.7).tolist() == [0]
    assert pool(x, contribution, 0, 0.7).tolist() == []


@settings(max_examples=30)
@given(st.integers(1, 14), st.integers(0, 14), st.floats(-0.9, 1.0), st.integers(0, 999))
def test_the_pool_is_that_of_one_walk_by_falling_contribution(
    tokens: int, size: int, similarity: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 3, generator=generator)
    contribution = torch.rand(tokens, generator=generator)
    expected: list[int] = []
    for place in contribution.argsort(descending=True).tolist():
        if len(expected) < size and all(
            float(torch.nn.functional.cosine_similarity(x[place], x[other], dim=0)) < similarity for other in expected
        ):
            expected.append(place)
    assert pool(x, contribution, size, similarity).tolist() == expected


def test_the_rest_becomes_means_of_clusters(device: str) -> None:
    line = torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.3], device=device)
    left, right = (torch.stack([torch.full_like(line, x), line], dim=1) for x in (0.0, 3.0))
    x = torch.cat([torch.tensor([[9.0, 9]], device=device), left, right])
    contribution = torch.tensor([9.0] + [0] * 10, device=device)
    place, token = compress(x, contribution, 3, 1.0, 0.67)
    assert place[0] == 0
    assert 1 <= place[1] <= 5 < place[2]  # a centre of each group
    torch.testing.assert_close(token, torch.tensor([[9.0, 9], [0, 0.02], [3, 0.02]], device=device))


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 25), st.floats(-1, 1), st.floats(0, 1), st.integers(0, 99))
def test_the_budget_is_met_whatever_the_pool_takes(
    tokens: int, budget: int, similarity: float, recycled: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 3, generator=generator)
    place, token = compress(x, torch.rand(tokens, generator=generator), budget, similarity, recycled)
    assert len(place) == len(token) == min(budget, tokens)
    assert place.tolist() == sorted({*place.tolist()})


def test_one_interested_word_is_enough(device: str) -> None:
    row = torch.tensor([[[0.0, 0.1, 0.5], [0.3, 0.2, 0.0]], [[0.0, 0.1, 0.5], [0.3, 0.4, 0.0]]], device=device)
    # Mean over heads: rows (0, 0.1, 0.5) and (0.3, 0.3, 0). The last word pays the third token nothing; the first most.
    score = importance(row, directions(0, 0, 0, device=device), directions(90, device=device), 0.0)
    assert score.tolist() == pytest.approx([0, 0, 1])


def test_both_halves_of_the_importance_are_stretched(device: str) -> None:
    row = torch.tensor([[[0.001, 0.002, 0.003]]], device=device)
    vision, text = directions(0, 60, 80, device=device), directions(0, 300, device=device)
    cosine = [1.0, (0.5 - 0.1736) / (1 - 0.1736), 0.0]  # 60° resembles 0° by 0.5, 80° by 0.17
    for balance in (0.0, 0.5, 1.0):
        expected = [(1 - balance) * paid + balance * like for paid, like in zip([0, 0.5, 1.0], cosine, strict=True)]
        assert importance(row, vision, text, balance).tolist() == pytest.approx(expected, abs=1e-3)


def test_what_goes_is_averaged_into_the_kept_token_most_like_it(device: str) -> None:
    x = directions(0, 10, 20, 90, 80, device=device)
    kept = torch.tensor([True, False, False, True, False], device=device)
    expected = torch.stack([x[:3].mean(dim=0), x[3:].mean(dim=0)])
    torch.testing.assert_close(merged_into(x, kept), expected, check_dtype=False, atol=1e-6, rtol=1e-6)


def test_all_frames_share_one_pool(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=4, max_new_tokens=1)
    run = lvlm.begin(request, [UnifiedCompression(keep_ratio=0.2, layer=2)])
    with torch.inference_mode():
        inputs = lvlm.prepare(run)
    assert int(inputs.vision_BN.sum()) == int(0.2 * 4 * 64)
    trace = lvlm.run(request, [UnifiedCompression(keep_ratio=0.2, layer=2)]).trace
    assert trace.llm_vision_tokens == [51, 51, 26, 26]
    assert trace.encoder_tokens == [65] * 4
    one = lvlm.run(request, [UnifiedCompression(keep_ratio=1 / 256, layer=2)]).trace
    assert one.llm_vision_tokens == [1, 1, 0, 0]  # half of one token is none


def test_keeping_everything_changes_nothing(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    kept = lvlm.run(request, [UnifiedCompression(keep_ratio=1.0, layer=1, inner_ratio=1.0)])
    assert torch.equal(kept.logits_NC, lvlm.run(request).logits_NC)
    assert kept.trace.probe_entries == 0


def test_what_cannot_run_is_refused(lvlm: LVLM) -> None:
    request = random_request(lvlm.config, frames=2)
    with pytest.raises(Refusal, match=r"layer must be in 1\.\.3 for an LLM of 4 layers, got 18"):
        lvlm.run(request, [UnifiedCompression()])
    with pytest.raises(Refusal, match="FastV may drop some between its layers"):
        lvlm.run(request, [UnifiedCompression(layer=2), FastV(layer=1)])
    with torch.inference_mode():
        run = lvlm.begin(request, [UnifiedCompression(keep_ratio=0.5, layer=1)])
        inputs = lvlm.prepare(run)
        with pytest.raises(Refusal, match="unified compression rates tokens by the text behind them"):
            lvlm.prefill(inputs.keep(inputs.vision_places()), run)


@pytest.mark.parametrize(
    "wrong",
    [{"keep_ratio": 0.0}, {"inner_ratio": 1.5}, {"recycled": -1}, {"balance": 2}, {"similarity": 3}, {"layer": 0}],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UnifiedCompression(**wrong)  # type: ignore[arg-type]
