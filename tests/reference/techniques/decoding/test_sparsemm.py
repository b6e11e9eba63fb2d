"""SparseMM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.snapkv import SnapKV
from lvlm_atlas.reference.techniques.decoding.sparsemm import SparseMM, answered, head_capacities, hits


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def layer(length: int, number: int = 0, layers: int = 1) -> CacheTokens:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(1, count, length, 8, generator=generator) for count in (4, 2, 2))
    place = torch.arange(length).expand(1, 2, length)
    return CacheTokens(number, layers, Entries(key, value, place < 0, place), Probe(query, key, causal=True))


def test_a_head_scores_where_it_looks_at_the_box_of_the_token() -> None:
    boxes = [({7, 8}, torch.tensor([10, 11])), ({9}, torch.tensor([20, 21, 22, 23])), ({8}, torch.tensor([30]))]
    top = torch.tensor([[[10, 20, 11, 0]], [[21, 10, 5, 23]], [[30, 10, 11, 30]], [[10, 20, 30, 0]]])
    # Token 7 is in the first box of two places, 9 in the second of four, 8 in two boxes, 5 in none.
    assert hits(top, [7, 9, 8, 5], boxes).tolist() == [[0.5 + 0.25, 0, 0.5, 0.25]]


def test_tokens_in_two_boxes_count_for_no_head() -> None:
    boxes = [({1}, torch.tensor([4])), ({1, 2}, torch.tensor([4]))]
    assert hits(torch.tensor([[[4, 0]]]), [1], boxes).tolist() == [[0, 0]]
    assert hits(torch.tensor([[[4, 0]]]), [2], boxes).tolist() == [[1, 0]]


def test_the_smaller_the_box_the_more_a_hit_counts() -> None:
    wide, narrow = torch.arange(8), torch.tensor([3])
    assert hits(torch.tensor([[[3]]]), [1], [({1}, wide)]).item() == pytest.approx(1 / 8)
    assert hits(torch.tensor([[[3]]]), [1], [({1}, narrow)]).item() == 1


def test_capacities_by_hand() -> None:
    score = torch.tensor([[0.5, 0.25], [0.25, 0.0]])
    # ⌊0.1 · 25⌋ = 2 for each, and 4 · 23 = 92 by score.
    assert head_capacities(score, 25, 0.1).tolist() == [[48, 25], [25, 2]]
    assert head_capacities(score, 25, 1.0).tolist() == [[25, 25], [25, 25]]
    assert head_capacities(score * 0, 25, 0.1).tolist() == [[25, 25], [25, 25]]


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 90),
    st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_capacities_add_up_and_a_head_without_a_score_keeps_the_floor(
    scores: list[list[float]], base: int, ratio: float
) -> None:
    score = torch.tensor(scores)
    capacity = head_capacities(score, base, ratio)
    least = int(base * ratio)
    assert int(capacity.sum()) == base * score.numel()
    assert bool((capacity >= least).all())
    if bool(score.any()):
        exact = score.double() / score.double().sum() * (base - least) * score.numel() + least
        assert bool(((capacity - exact).abs() < 1).all())
        assert bool((capacity[score == 0] == least).all())


def test_a_head_with_a_high_score_keeps_more_in_all_layers_and_heads() -> None:
    technique = SparseMM(4, 24, min_ratio=0.2, calibration=((0.5, 0.125), (0.375, 0.0)))
    # 4 for each besides the window, and 4 · 16 = 64 by score: 32, 8, 24 and none.
    kept = [technique.compress_cache(layer(90, number, 2)).held.visible_BGS[0].sum(-1).tolist() for number in (0, 1)]
    assert kept == [[4 + 36, 4 + 12], [4 + 28, 4 + 4]]


def test_no_head_keeps_more_than_there_is() -> None:
    technique = SparseMM(4, 24, min_ratio=0.2, calibration=((0.5, 0.125), (0.375, 0.0)))
    kept = [technique.compress_cache(layer(30, number, 2)).held.visible_BGS[0].sum(-1).tolist() for number in (0, 1)]
    assert kept == [[30, 16], [30, 8]]


def test_each_head_keeps_what_snapkv_would_with_its_budget() -> None:
    at = layer(60)
    kept = SparseMM(4, 24, calibration=((0.75, 0.25),)).compress_cache(at)
    for head, own in ((0, 2 + 27), (1, 2 + 9)):
        like = SnapKV(4, 4 + own).compress_cache(at).index_BGS[0, head]
        assert kept.index_BGS[0, head][kept.held.visible_BGS[0, head]].tolist() == like.tolist()


def test_with_a_floor_of_all_it_is_snapkv(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    even = lvlm.run(request, [SparseMM(8, 60, min_ratio=1.0, calibration=((1.0, 0.0),) * 4)])
    assert torch.equal(even.logits_NC, lvlm.run(request, [SnapKV(8, 60)]).logits_NC)


@pytest.mark.parametrize(("length", "kept"), [(19, 38), (20, 40), (60, 40)])
def test_a_prompt_below_the_capacity_is_left_alone(length: int, kept: int) -> None:
    at = layer(length)
    entries = SparseMM(5, 20, calibration=((0.6, 0.4),)).compress_cache(at)
    assert (entries is at.entries) == (length < 20)
    assert int(entries.held.visible_BGS.sum()) <= kept


def test_the_row_that_gives_a_token_says_where_a_head_looks_for_it(lvlm: LVLM) -> None:
    sample = random_request(lvlm.config, frames=1, max_new_tokens=3)
    tokens, top, place = answered(lvlm, sample)
    assert tokens == lvlm.run(sample).tokens_N.tolist()
    assert top.shape == (3, 4, 4)
    observed = lvlm.observe(sample)
    last = torch.stack([probe.rows(slice(-1, None))[0, :, 0].argmax(-1) for probe, _ in observed.attention])
    assert torch.equal(top[0], last), "the first token comes from the prompt's last row"
    assert place.tolist() == observed.inputs.vision_places()[0].tolist()


def test_it_is_calibrated_on_the_models_own_answers(lvlm: LVLM) -> None:
    samples = [random_request(lvlm.config, frames=2, max_new_tokens=4, seed=seed) for seed in range(2)]
    technique = SparseMM(8, 60).calibrate(lvlm, samples)
    assert technique.calibration is not None
    expected = torch.zeros(4, 2)
    for sample in samples:
        _, top, place = answered(lvlm, sample)
        looks = torch.isin(top, place).sum(0).float() / len(place)
        expected += looks.reshape(4, 2, 2).sum(-1).cpu()
    assert torch.tensor(technique.calibration).sum().item() == pytest.approx(1)
    torch.testing.assert_close(torch.tensor(technique.calibration), expected / expected.sum())
    trace = lvlm.run(random_request(lvlm.config), [technique]).trace
    assert sum(trace.kv_entries) == 4 * 60
    assert trace.kv_byte == [round(count * 2) * 2 * 16 * 4 for count in trace.kv_entries]
    assert trace.probe_entries == 4 * 4 * sum(range(393, 401))
    with pytest.raises(ValueError, match="calibrated on samples, got none"):
        SparseMM().calibrate(lvlm, [])


def test_scores_of_another_model_are_refused() -> None:
    with pytest.raises(Refusal, match=r"calibrated for \(3, 2\) layers and heads, got \(2, 2\); calibrate it anew"):
        SparseMM(4, 24, calibration=((0.5, 0.5),) * 3).compress_cache(layer(60, 0, 2))


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    at = layer(50)
    fewer = at.entries.keep(torch.arange(40).expand(1, 2, 40))
    with pytest.raises(Refusal, match="50 columns for 40 entries; put SparseMM before"):
        SparseMM(8, 20, calibration=((0.5, 0.5),)).compress_cache(replace(at, entries=fewer))


def test_arguments_out_of_range_are_refused() -> None:
    for error, match, arguments in (
        (ValueError, r"min_ratio must lie in \[0, 1\], got 1.5", {"min_ratio": 1.5}),
        (Refusal, "base_capacity must exceed window_size 32, got 32", {"base_capacity": 32}),
        (Refusal, "kernel_size must be odd and at least 1, got 4", {"kernel_size": 4}),
    ):
        with pytest.raises(error, match=match):
            SparseMM(**arguments)  # type: ignore[arg-type]
