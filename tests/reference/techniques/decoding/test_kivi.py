"""KIVI: the quantiser, the two windows, and the store inside the LVLM."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheBits
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.ops.quantisation import dequantise, quantise, unpack
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.kivi import Kivi, quantised_lengths
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling

HEADS, WIDTH = 2, 16


def entries(length: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    key, value = torch.randn(2, 1, HEADS, length, WIDTH, generator=generator).to(device)
    return key, value


def new_store(technique: Kivi) -> Store:
    nothing = torch.empty(1, HEADS, 0, WIDTH)
    return technique.new_store(CacheBits(0, 1, Entries(nothing, nothing, nothing[..., 0], nothing[..., 0])))


def filled(technique: Kivi, key: Tensor, value: Tensor) -> Store:
    store = new_store(technique)
    store.append(key, value)
    store.settle()
    return store


def held_byte(store: Store) -> int:
    return sum(tensor.nbytes for tensor in store.tensors)


def bytes_of(length: int, bits: int, group_size: int, residual_length: int, element: int = 4) -> int:
    """Bytes of a layer, from the paper's scheme: codes, scales and zero points, and the exact rest."""
    total = 0
    for coded in quantised_lengths(length, residual_length):
        numbers = coded * HEADS * WIDTH
        exact = (length - coded) * HEADS * WIDTH
        total += numbers * bits // 8 + numbers // group_size * 2 * element + exact * element
    return total


def test_a_group_of_equal_numbers_reads_back_exactly(device: str) -> None:
    x = torch.tensor([0.3, 0.3, 0.3, 0.3, 1.0, 2.0, 3.0, 4.0], device=device)
    codes = quantise(x, group_size=4, bits=2)
    assert codes.scale[0] == 0
    assert unpack(codes.packed, 2)[:4].tolist() == [0, 0, 0, 0]
    assert torch.equal(dequantise(codes, 4, 2), x)


@given(bits=st.sampled_from([2, 4, 8]), seed=st.integers(0, 10**6), spread=st.integers(-3, 3))
@settings(max_examples=25)
def test_no_number_is_off_by_more_than_half_a_step(bits: int, seed: int, spread: int) -> None:
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)) * 10.0**spread
    codes = quantise(x, group_size=8, bits=bits)
    error = (dequantise(codes, 8, bits) - x).abs().unflatten(-1, (-1, 8))
    assert (error <= codes.scale[..., None] * 0.5 + x.abs().max() * 1e-6).all()


def test_an_outlier_channel_of_keys_does_not_blur_the_others(device: str) -> None:
    key, value = entries(16, device)
    key[..., 3] *= 1000
    read, _ = filled(Kivi(bits=4, group_size=16, residual_length=16), key, value).read()
    others = [channel for channel in range(WIDTH) if channel != 3]
    assert (read - key)[..., others].abs().max() < 0.25
    assert (read - key)[..., 3].abs().max() > 10


def test_an_outlier_token_of_values_does_not_blur_the_others(device: str) -> None:
    key, value = entries(32, device)
    value[:, :, 5] *= 1000
    _, read = filled(Kivi(bits=4, group_size=16, residual_length=16), key, value).read()
    others = [token for token in range(32) if token != 5]
    assert (read - value)[:, :, others].abs().max() < 0.25
    assert (read - value)[:, :, 5].abs().max() > 10


@pytest.mark.parametrize(
    ("length", "exact_keys", "exact_values"), [(7, 7, 7), (16, 0, 16), (23, 7, 16), (40, 8, 16), (48, 0, 16)]
)
def test_keys_are_quantised_in_whole_residuals_and_values_all_but_the_last(
    length: int, exact_keys: int, exact_values: int, device: str
) -> None:
    key, value = entries(length, device)
    read_key, read_value = filled(Kivi(bits=2, group_size=8, residual_length=16), key, value).read()
    same_key, same_value = ((a == b).all(-1).all(1)[0].tolist() for a, b in ((read_key, key), (read_value, value)))
    assert same_key == [False] * (length - exact_keys) + [True] * exact_keys
    assert same_value == [False] * (length - exact_values) + [True] * exact_values


@given(chunks=st.lists(st.integers(1, 20), min_size=1, max_size=8), bits=st.sampled_from([2, 8]))
@settings(max_examples=20)
def test_tokens_that_settle_together_are_held_as_if_one_by_one(chunks: list[int], bits: int) -> None:
    technique = Kivi(bits=bits, group_size=8, residual_length=16)
    key, value = entries(sum(chunks), "cpu")
    together, alone, done = new_store(technique), new_store(technique), 0
    for size in chunks:
        together.append(key[:, :, done : done + size], value[:, :, done : done + size])
        together.settle()
        done += size
    for token in range(done):
        alone.append(key[:, :, token : token + 1], value[:, :, token : token + 1])
        alone.settle()
    assert all(torch.equal(a, b) for a, b in zip(together.read(), alone.read(), strict=True))
    assert (together.length, held_byte(together)) == (alone.length, held_byte(alone))


def test_drafted_tokens_stay_exact_and_leave_no_trace_when_rejected(device: str) -> None:
    technique = Kivi(bits=2, group_size=8, residual_length=16)
    key, value = entries(40, device)
    store = filled(technique, key[:, :, :30], value[:, :, :30])
    before = [x.clone() for x in store.read()]
    store.append(key[:, :, 30:], value[:, :, 30:])
    during = store.read()
    assert torch.equal(during[0][:, :, 30:], key[:, :, 30:]), "none is quantised before it settles"
    assert torch.equal(during[1][:, :, 30:], value[:, :, 30:])
    assert all(torch.equal(a[:, :, :30], b) for a, b in zip(during, before, strict=True))
    store.retain(torch.tensor([0, 1, 5], device=device))
    store.settle()
    accepted = [*range(30), 30, 31, 35]
    honest = new_store(technique)
    for token in accepted:
        honest.append(key[:, :, token : token + 1], value[:, :, token : token + 1])
        honest.settle()
    assert all(torch.equal(a, b) for a, b in zip(store.read(), honest.read(), strict=True))
    assert (store.length, held_byte(store)) == (33, held_byte(honest))


@pytest.mark.parametrize("length", [5, 16, 37, 64])
@pytest.mark.parametrize(("bits", "group_size"), [(2, 8), (4, 16), (8, 16)])
def test_bytes_are_codes_scales_zero_points_and_the_exact_rest(
    length: int, bits: int, group_size: int, device: str
) -> None:
    store = filled(Kivi(bits=bits, group_size=group_size, residual_length=16), *entries(length, device))
    assert held_byte(store) == bytes_of(length, bits, group_size, 16)
    assert store.length == length


def test_attention_in_two_parts_equals_attention_over_what_is_read(device: str) -> None:
    key, value = entries(40, device)
    store = filled(Kivi(bits=2, group_size=8, residual_length=16), key, value)
    read_key, read_value = store.read()
    query = torch.randn(1, HEADS, 1, WIDTH, generator=torch.Generator().manual_seed(1)).to(device)
    whole = (query @ read_key.mT).softmax(-1) @ read_value
    keys, values = quantised_lengths(40, 16)
    logits = torch.cat([query @ read_key[:, :, :keys].mT, query @ key[:, :, keys:].mT], dim=-1)
    weight = logits.softmax(-1)
    parts = weight[..., :values] @ read_value[:, :, :values] + weight[..., values:] @ value[:, :, values:]
    torch.testing.assert_close(parts, whole)


def test_prefill_attends_in_full_precision(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=3)
    plain, quantised = lvlm.run(request), lvlm.run(request, [Kivi(bits=2, group_size=8, residual_length=16)])
    assert torch.equal(plain.logits_NC[0], quantised.logits_NC[0])
    assert not torch.allclose(plain.logits_NC[1], quantised.logits_NC[1], atol=1e-3), "2 bits must show"


def test_cached_keys_are_rotated_before_they_are_quantised(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with torch.inference_mode():
        request = random_request(lvlm.config)
        inputs = lvlm.prepare(lvlm.begin(request))
        plain = lvlm.prefill(inputs).cache
        cache = lvlm.prefill(inputs, lvlm.begin(request, [Kivi(bits=8, group_size=16, residual_length=16)])).cache
    for exact, store in zip(plain.stores, cache.stores, strict=True):
        step = (exact.read()[0].amax() - exact.read()[0].amin()) / 255
        assert (store.read()[0] - exact.read()[0]).abs().max() <= step / 2


@pytest.mark.parametrize(("bits", "group_size", "residual_length"), [(2, 8, 16), (4, 16, 32)])
def test_the_run_holds_every_entry_in_the_declared_bytes(
    bits: int, group_size: int, residual_length: int, device: str
) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    plain = lvlm.run(request)
    trace = lvlm.run(request, [Kivi(bits, group_size, residual_length)]).trace
    assert trace.kv_entries == plain.trace.kv_entries == [400] * 4
    assert trace.kv_byte == [bytes_of(400, bits, group_size, residual_length)] * 4
    assert trace.kv_byte_end == 4 * bytes_of(400 + trace.target_passes, bits, group_size, residual_length)
    assert trace.llm_vision_tokens == plain.trace.llm_vision_tokens
    assert sum(trace.kv_byte) < sum(plain.trace.kv_byte) / 2


@pytest.mark.parametrize("technique", [Kivi(bits=16), Kivi(bits=2, group_size=16, residual_length=512)])
def test_no_quantisation_and_a_window_over_everything_change_nothing(technique: Kivi, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config)
    plain, same = lvlm.run(request), lvlm.run(request, [technique])
    assert torch.equal(plain.tokens_N, same.tokens_N)
    assert torch.equal(plain.logits_NC, same.logits_NC)
    assert plain.trace.kv_byte_end == same.trace.kv_byte_end


def test_speculation_leaves_the_cache_of_the_tokens_it_accepted(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=20)
    stack = [Kivi(bits=2, group_size=8, residual_length=16), SpeculativeSampling(gamma=3)]
    trace = lvlm.run(request, stack).trace
    settled = 400 + sum(trace.accepted_lengths) + trace.target_passes
    assert trace.kv_byte_end == 4 * bytes_of(settled, 2, 8, 16)


def test_a_group_size_that_does_not_divide_the_head_dimension_is_refused_when_run(device: str) -> None:
    lvlm = LVLM.random(device=device)
    with pytest.raises(Refusal, match="divide the head dimension, which is 16 here, got 32"):
        lvlm.run(random_request(lvlm.config), [Kivi()])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bits": 3}, ValueError, "bits must be"),
        ({"group_size": 0}, ValueError, "group_size must be at least 1"),
        ({"group_size": 2, "residual_length": 2}, Refusal, "whole bytes, got 2 times 2"),
        ({"residual_length": 0}, ValueError, "residual_length must be at least 1"),
        ({"group_size": 32, "residual_length": 48}, Refusal, "multiple of group_size 32, got 48"),
    ],
)
def test_illegal_parameters_and_sizes_that_do_not_fit_are_told_apart(
    arguments: dict[str, int], error: type[ValueError], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Kivi(**arguments)
    assert type(raised.value) is error
