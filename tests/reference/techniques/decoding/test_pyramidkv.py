"""PyramidKV."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.pyramidkv import PyramidKV
from lvlm_atlas.reference.techniques.decoding.snapkv import SnapKV


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def layer(length: int, number: int = 0, layers: int = 1, seed: int = 0, device: str = "cpu") -> CacheTokens:
    query, key, value = (randn(1, count, length, 8, seed=seed + i, device=device) for i, count in enumerate((4, 2, 2)))
    place = torch.arange(length, device=device).expand(1, 2, length)
    return CacheTokens(number, layers, Entries(key, value, place < 0, place), Probe(query, key, causal=True))


def kept(technique: PyramidKV, length: int, layers: int, seed: int = 0) -> list[int]:
    """Entries that each layer keeps."""
    at = layer(length, layers=layers, seed=seed)
    return [technique.compress_cache(replace(at, layer=each)).key_BGSd.shape[2] for each in range(layers)]


def test_low_layers_keep_more_than_high_ones() -> None:
    # b = 20: the first keeps 40 − 20 // 5 = 36, the last 4, and the steps are 32 // 4.
    assert kept(PyramidKV(window_size=4, max_capacity_prompt=24, beta=5), 90, 5) == [40, 32, 24, 16, 8]


def test_layers_together_keep_the_mean_but_for_the_rounded_step() -> None:
    # b = 21, the first keeps 42 − 5 = 37, the last 5, but the steps are 32 // 3 = 10: two entries more than 4 · 21.
    counts = kept(PyramidKV(window_size=4, max_capacity_prompt=25, beta=4), 90, 4)
    assert counts == [41, 31, 21, 11]
    assert sum(counts) == 4 * 25 + 4


def test_where_the_first_layer_keeps_all_the_last_keeps_more() -> None:
    # 30 entries stand before the window: all of them in the first layer, 40 − 30 in the last.
    technique = PyramidKV(window_size=10, max_capacity_prompt=30, beta=5)
    assert kept(technique, 40, 3) == [40, 30, 20]
    assert kept(technique, 45, 3) == [45, 30, 15]
    assert kept(technique, 46, 3) == [46, 30, 14]
    assert kept(technique, 47, 3) == [46, 30, 14]


@pytest.mark.parametrize(("length", "counts"), [(23, [23] * 3), (24, [24] * 3), (39, [24] * 3), (40, [40, 24, 8])])
def test_prompts_below_twice_the_mean_are_cut_alike_in_all_layers(length: int, counts: list[int]) -> None:
    assert kept(PyramidKV(window_size=4, max_capacity_prompt=24, beta=5), length, 3) == counts
    at = layer(length, layers=3)
    technique = PyramidKV(window_size=4, max_capacity_prompt=24, beta=5)
    assert (technique.compress_cache(at) is at.entries) == (length < 24)


@given(
    st.integers(1, 6), st.integers(1, 20), st.integers(0, 60), st.integers(1, 25), st.integers(1, 6),
    st.sampled_from([1, 3, 5]), st.sampled_from(["avgpool", "maxpool"]), st.sampled_from(["mean", "max"]),
    st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_each_layer_keeps_what_snapkv_would_with_its_budget(
    window: int, base: int, longer: int, beta: int, layers: int, kernel: int, pooling: str, group: str, seed: int
) -> None:
    capacity, length = window + base, window + base + longer
    first = min(2 * base - base // beta, length - window)
    step = (2 * first - 2 * base) // max(1, layers - 1) if layers > 1 and length >= 2 * base else 0
    at = layer(length, layers=layers, seed=seed)
    technique = PyramidKV(window, capacity, beta, kernel, pooling, group)
    for number in range(layers):
        own = first - number * step if layers > 1 and length >= 2 * base else base
        got = technique.compress_cache(replace(at, layer=number))
        if own:
            like = SnapKV(window, window + own, kernel, pooling, group).compress_cache(at)
            assert torch.equal(got.index_BGS, like.index_BGS)
            assert torch.equal(got.value_BGSd, like.value_BGSd)
        else:
            assert got.index_BGS[0].tolist() == [[*range(length - window, length)]] * 2


def test_without_steepness_it_is_snapkv(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    flat = lvlm.run(request, [PyramidKV(window_size=8, max_capacity_prompt=60, beta=1)])
    snap = lvlm.run(request, [SnapKV(8, 60, kernel_size=7, pooling="maxpool")])
    assert torch.equal(flat.logits_NC, snap.logits_NC)


def test_the_window_is_part_of_the_mean_and_kept_in_every_layer(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [PyramidKV(window_size=8, max_capacity_prompt=40)]).trace
    # b = 32: 63, 43, 23 and 3 before the window, in steps of 60 // 3.
    assert trace.kv_entries == [71, 51, 31, 11]
    for index in trace.kv_index:
        assert index[..., -8:].unique().tolist() == [*range(392, 400)]


def test_decoding_goes_on_at_the_true_length_and_adds_entries(lvlm: LVLM) -> None:
    technique = PyramidKV(window_size=8, max_capacity_prompt=40)
    with torch.inference_mode():
        run = lvlm.begin(random_request(lvlm.config), [technique])
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
    assert (cache.next_position == 400).all()
    trace = lvlm.run(random_request(lvlm.config, max_new_tokens=12), [technique]).trace
    assert trace.kv_most_entries == [82, 62, 42, 22]
    assert trace.probe_entries == 4 * 4 * sum(range(393, 401))  # eight rows of four layers and heads
    assert trace.kv_byte == [count * 2 * 2 * 16 * 4 for count in trace.kv_entries]


def test_entries_that_another_technique_evicted_before_are_refused(device: str) -> None:
    at = layer(50, device=device)
    fewer = at.entries.keep(torch.arange(40, device=device).expand(1, 2, 40))
    with pytest.raises(Refusal, match="50 columns for 40 entries; put PyramidKV before"):
        PyramidKV(window_size=8, max_capacity_prompt=20).compress_cache(replace(at, entries=fewer))


def test_arguments_out_of_range_are_refused() -> None:
    for error, match, arguments in (
        (ValueError, "beta must be at least 1, got 0", {"beta": 0}),
        (ValueError, "window_size must be at least 1, got 0", {"window_size": 0}),
        (Refusal, "kernel_size must be odd and at least 1, got 4", {"kernel_size": 4}),
        (Refusal, "max_capacity_prompt must exceed window_size 8, got 8", {"max_capacity_prompt": 8}),
    ):
        with pytest.raises(error, match=match):
            PyramidKV(**arguments)  # type: ignore[arg-type]
