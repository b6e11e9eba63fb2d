"""FP8 KV cache: the format, its scales, and the store inside the LVLM."""

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
from lvlm_atlas.reference.ops.quantisation import from_float8, to_float8
from lvlm_atlas.reference.techniques.decoding.fp8_kv_cache import SCALES, Fp8KvCache, static_scale

HEADS, WIDTH = 2, 16


def entries(length: int, device: str = "cpu", seed: int = 0) -> tuple[Tensor, Tensor]:
    key, value = torch.randn(2, 1, HEADS, length, WIDTH, generator=torch.Generator().manual_seed(seed)).to(device)
    return key, value


def filled(scales: str, key: Tensor, value: Tensor) -> Store:
    nothing = torch.zeros(key.shape[:3], dtype=torch.bool, device=key.device)
    store = Fp8KvCache(scales=scales).new_store(CacheBits(0, 1, Entries(key, value, nothing, nothing.long())))
    store.append(key, value)
    store.settle()
    return store


def numbers_of_the_format() -> Tensor:
    """All finite numbers of E4M3 by its definition: (−1)^sign · 2^(e − 7) · (1 + m / 8), and 2^−6 · m / 8 for e = 0."""
    magnitude = [m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7) for e in range(16) for m in range(8)][:-1]
    return torch.tensor(sorted({sign * x for x in magnitude for sign in (-1, 1)}))


@given(seed=st.integers(0, 10**6), spread=st.integers(-9, 8))
@settings(max_examples=25)
def test_a_number_becomes_the_nearest_of_the_format(seed: int, spread: int) -> None:
    x = (torch.randn(64, generator=torch.Generator().manual_seed(seed)) * 2.0**spread).clamp(-448, 448)
    read = from_float8(to_float8(x, torch.tensor(1.0)), torch.tensor(1.0), x.dtype)
    all_ = numbers_of_the_format()
    assert len(all_) == 253
    assert torch.isin(read, all_).all()
    assert torch.equal((read - x).abs(), (all_ - x[:, None]).abs().amin(dim=1))


@given(seed=st.integers(0, 10**6), spread=st.integers(-6, 6), scales=st.sampled_from(["layer", "head"]))
@settings(max_examples=25)
def test_no_number_is_off_by_more_than_a_sixteenth_or_half_the_least(seed: int, spread: int, scales: str) -> None:
    key, value = (x * 10.0**spread for x in entries(9, seed=seed))
    for read, x in zip(filled(scales, key, value).read(), (key, value), strict=True):
        scale = static_scale(x, torch.ones(x.shape[:3], dtype=torch.bool), scales)
        assert ((read - x).abs() <= torch.maximum(x.abs() / 16, scale / 1024) * (1 + 1e-5)).all()


def test_numbers_beyond_the_range_are_clamped(device: str) -> None:
    key = torch.tensor([1e4, -1e4, 449.0, 448.0, torch.inf, -torch.inf, 0.0, -0.0], device=device)
    read = from_float8(to_float8(key, torch.ones(1, device=device)), torch.ones(1, device=device), key.dtype)
    assert read.tolist() == [448.0, -448.0, 448.0, 448.0, 448.0, -448.0, 0.0, 0.0]


def test_with_scale_1_outliers_are_lost_that_a_fitted_scale_keeps(device: str) -> None:
    key, value = entries(5, device)
    key[0, 0, 2, 3] = 1000.0
    assert filled("one", key, value).read()[0][0, 0, 2, 3] == 448
    assert filled("layer", key, value).read()[0][0, 0, 2, 3] == 1000


def test_keys_and_values_have_scales_of_their_own(device: str) -> None:
    key, value = entries(5, device)
    read_key, read_value = filled("layer", key * 1e5, value * 1e-5).read()
    torch.testing.assert_close(read_key, key * 1e5, rtol=1 / 16, atol=1e5 / 2**16)
    torch.testing.assert_close(read_value, value * 1e-5, rtol=1 / 16, atol=1e-5 / 2**16)


def test_the_greatest_number_of_the_prompt_is_read_back_exactly(device: str) -> None:
    key, value = entries(7, device)
    key[0, 1] *= 64  # heads of different ranges
    whole, by_head = (filled(scales, key, value).read()[0] for scales in ("layer", "head"))
    place = key.abs().argmax()
    torch.testing.assert_close(whole.flatten()[place], key.flatten()[place])
    most = [x.abs().amax((0, 2, 3)) for x in (whole, by_head, key)]
    torch.testing.assert_close(most[1], most[2])
    assert static_scale(key, torch.ones(1, HEADS, 7, dtype=torch.bool, device=device), "head").shape == (1, HEADS, 1, 1)


def test_later_tokens_are_written_in_the_scale_of_the_first_prompt() -> None:
    key, value = entries(6)
    store = filled("layer", key, value)
    before = store.read()[0]
    store.append(*entries(1, seed=1))
    store.append(100 * key[:, :, :1], value[:, :, :1])
    store.settle()
    most = key.abs().max()
    assert torch.equal(store.read()[0][:, :, :6], before)
    torch.testing.assert_close(store.read()[0][:, :, 7:].abs().max(), most)


def test_unsettled_entries_are_exact() -> None:
    key, value = entries(9)
    store = filled("head", key[:, :, :5], value[:, :, :5])
    store.append(key[:, :, 5:], value[:, :, 5:])
    assert torch.equal(store.read()[0][:, :, 5:], key[:, :, 5:])
    store.retain(torch.tensor([1, 3]))
    store.settle()
    torch.testing.assert_close(store.read()[1], value[:, :, [0, 1, 2, 3, 4, 6, 8]], rtol=1 / 16, atol=1e-3)
    assert store.length == 7


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_number_takes_a_byte_and_scales_are_not_counted(scales: str, length: int, device: str) -> None:
    key, value = entries(length, device)
    store = filled(scales, key, value)
    assert sum(x.nbytes for x in store.tensors) == 2 * HEADS * WIDTH * length
    assert store.read()[0].dtype == key.dtype


def test_padding_does_not_set_the_scale() -> None:
    key, _ = entries(4)
    key[:, :, 0] = 1e6
    visible = torch.tensor([False, True, True, True]).expand(1, HEADS, -1)
    assert static_scale(key, visible, "layer").item() == key[:, :, 1:].abs().max() / 448
    assert static_scale(torch.zeros_like(key), visible, "head").unique().tolist() == [1.0]


def test_an_evicted_entry_leaves_the_codes_of_the_others_as_they_are() -> None:
    store = filled("head", *entries(6))
    before = store.read()
    index = torch.tensor([[[0, 2, 5], [1, 2, 3]]])
    store.keep(index)
    for one, other in zip(before, store.read(), strict=True):
        assert torch.equal(one.gather(2, index[..., None].expand(-1, -1, -1, WIDTH)), other)


@pytest.mark.parametrize("scales", SCALES)
def test_a_run_holds_a_quarter_of_float32_and_prefill_is_exact(scales: str, device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=4)
    plain, small = lvlm.run(request), lvlm.run(request, [Fp8KvCache(scales=scales)])
    assert torch.equal(plain.logits_NC[0], small.logits_NC[0])
    assert not torch.equal(plain.logits_NC[1], small.logits_NC[1])
    torch.testing.assert_close(plain.logits_NC[1], small.logits_NC[1], atol=0.05, rtol=0.05)
    assert [4 * byte for byte in small.trace.kv_byte] == plain.trace.kv_byte
    assert small.trace.kv_entries == plain.trace.kv_entries


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="scales must be one of one, layer, head, got 'token'"):
        Fp8KvCache(scales="token")
    with pytest.raises(ValueError, match="bits must be 8 or 16, got 4"):
        Fp8KvCache(4)
