"""VidKV: channels by range, the spectrum, three levels, and the store inside the LVLM."""

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
from lvlm_atlas.reference.ops.quantisation import dequantise, quantise
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.vidkv import VidKV, by_range, from_spectrum, mixed_keys, spectrum

HEADS, WIDTH = 2, 16
SMALL = VidKV(group_size=8, residual_length=16)


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def filled(technique: VidKV, key: Tensor, value: Tensor) -> Store:
    nothing = torch.zeros(key.shape[:3], dtype=torch.bool, device=key.device)
    store = technique.new_store(CacheBits(0, 1, Entries(key, value, nothing, nothing.long())))
    store.append(key, value)
    store.settle()
    return store


def byte(store: Store) -> int:
    return sum(x.nbytes for x in store.tensors)


def bytes_of(technique: VidKV, length: int, element: int = 4) -> int:
    """Bytes of a layer by hand: codes, scales, zero points and what is exact."""
    group, coded = technique.group_size, length - length % technique.residual_length
    wide = int(WIDTH * (technique.key_bits - 1))
    groups = HEADS * coded // group
    key = groups * (wide * (2 * group // 8 + 2 * element) + (WIDTH - wide) * (group // 8 + element))
    codes = -(-group // 5) + element if technique.value_bits < 2 else 2 * group // 8 + 2 * element
    return key + groups * WIDTH * codes + 2 * HEADS * WIDTH * (length - coded) * element


@given(channels=st.integers(1, 17), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_the_spectrum_of_real_channels_has_as_many_numbers_as_channels(channels: int, seed: int) -> None:
    x = draw(2, channels, 5, seed=seed)
    number, whole = spectrum(x), torch.fft.fft(x, dim=-2)
    assert number.shape == x.shape
    torch.testing.assert_close(number[:, : channels // 2 + 1], whole.real[:, : channels // 2 + 1])
    torch.testing.assert_close(number[:, channels // 2 + 1 :], whole.imag[:, 1 : (channels + 1) // 2])
    torch.testing.assert_close(from_spectrum(number), x, atol=1e-5, rtol=1e-4)


def test_channels_are_chosen_by_range_over_all_heads_and_real_entries(device: str) -> None:
    key = torch.zeros(1, HEADS, 3, 4, device=device)
    key[0, 0, 1, 2], key[0, 1, 2, 2] = 3.0, -4.0  # 7 over both heads
    key[0, 1, 1, 0] = 6.0
    key[0, 0, 0, 3] = 100.0
    visible = torch.tensor([False, True, True], device=device).expand(1, HEADS, -1)
    assert by_range(key, visible, 1).tolist() == [0, 1, 3, 2], "the transform takes channels as they come"
    assert by_range(key, visible, 2).tolist() == [1, 3, 0, 2]
    assert by_range(key, torch.ones_like(visible), 1).tolist() == [0, 1, 2, 3]
    assert by_range(key[:, :, :0], visible[:, :, :0], 2).tolist() == [0, 1, 2, 3]


def test_what_is_read_is_what_was_quantised(device: str) -> None:
    key, value = draw(2, 1, HEADS, 16, WIDTH, device=device)
    read_key, read_value = filled(SMALL, key, value).read()
    order = by_range(key, torch.ones(key.shape[:3], dtype=torch.bool, device=device), 8)
    hard = order[8:]
    for first in (0, 8):
        part = slice(first, first + 8)
        group = value[0, :, part]
        scale = group.abs().mean(dim=1, keepdim=True)
        torch.testing.assert_close(read_value[0, :, part], (group.abs() > scale / 2) * group.sign() * scale)
        wide = key[0, :, part][..., hard].mT.contiguous()
        torch.testing.assert_close(read_key[0, :, part][..., hard].mT, dequantise(quantise(wide, 8, 2), 8, 2))
    # The transform of the official code, both halves, with the scale that it forgets.
    read = mixed_keys(torch.arange(WIDTH), 0)
    x = key.mT[..., :8]
    wave = torch.view_as_real(torch.fft.fft(x, dim=-2))
    signs = torch.where(wave >= 0, 1.0, -1.0) * wave.abs().mean(dim=-2, keepdim=True)
    back = torch.fft.ifft(torch.view_as_complex(signs.contiguous()), dim=-2).real
    torch.testing.assert_close(read.decode(read.encode(x, 8), 8), back, atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 10**6), spread=st.integers(-3, 3))
@settings(max_examples=20)
def test_the_error_of_a_key_keeps_its_bound(seed: int, spread: int) -> None:
    x = draw(1, HEADS, WIDTH, 16, seed=seed) * 10.0**spread
    form = mixed_keys(torch.arange(WIDTH), 4)
    off = form.decode(form.encode(x, 8), 8) - x
    hard = x[..., 12:, :].unflatten(-1, (-1, 8))
    step = (hard.amax(-1) - hard.amin(-1)) / 3
    assert (off[..., 12:, :].unflatten(-1, (-1, 8)).abs() <= step[..., None] / 2 + 1e-6 * 10.0**spread).all()
    number = spectrum(x[..., :12, :]).unflatten(-1, (-1, 8)).abs()
    scale = number.mean(-1, keepdim=True)
    most = torch.maximum(scale, number - scale).flatten(-2).square()
    twice = torch.cat([most[..., :1, :], 2 * most[..., 1:6, :], most[..., 6:7, :], 2 * most[..., 7:, :]], dim=-2)
    assert (off[..., :12, :].square().sum(-2) <= twice.sum(-2) / 12 * (1 + 1e-4)).all()


def test_an_outlier_channel_is_kept_out_of_the_spectrum(device: str) -> None:
    key, value = draw(2, 1, HEADS, 16, WIDTH, device=device)
    key[..., 5] *= 20
    others = [channel for channel in range(WIDTH) if channel != 5]
    whole = VidKV(key_bits=1, group_size=8, residual_length=16)
    off = [
        float((filled(technique, key, value).read()[0] - key)[..., others].square().mean())
        for technique in (SMALL, whole)
    ]
    assert off[1] > 4 * off[0], "of numbers of variance 1"


def test_values_share_a_scale_along_tokens(device: str) -> None:
    key, value = draw(2, 1, HEADS, 16, WIDTH, device=device)
    value[..., 5] *= 1000
    others = [channel for channel in range(WIDTH) if channel != 5]
    read = filled(SMALL, key, value).read()[1]
    assert (read - value)[..., others].abs().max() < 3
    assert read[0, 0, :8, 5].abs().unique().numel() <= 2


def test_no_share_of_wide_channels_and_all_of_them_are_one_bit_and_two(device: str) -> None:
    key, value = draw(2, 1, HEADS, 16, WIDTH, device=device)
    read = filled(VidKV(key_bits=2, value_bits=2, group_size=8, residual_length=16), key, value).read()
    for x, found in zip((key, value), read, strict=True):
        torch.testing.assert_close(found.mT, dequantise(quantise(x.mT.contiguous(), 8, 2), 8, 2))


@pytest.mark.parametrize("length", [5, 16, 37])
@pytest.mark.parametrize("arguments", [(1.5, 1.58, 8, 16), (1.2, 2, 16, 32), (1.0, 1.58, 16, 16), (2.0, 2.0, 8, 8)])
def test_bytes_are_codes_scales_and_the_exact_rest(
    length: int, arguments: tuple[float, float, int, int], device: str
) -> None:
    key_bits, value_bits, group, residual = arguments
    technique = VidKV(key_bits, value_bits, group, residual)
    assert byte(filled(technique, *draw(2, 1, HEADS, length, WIDTH, device=device))) == bytes_of(technique, length)


@given(chunks=st.lists(st.integers(1, 20), min_size=2, max_size=6))
@settings(max_examples=10)
def test_tokens_that_settle_together_are_held_as_if_one_by_one(chunks: list[int]) -> None:
    key, value = draw(2, 1, HEADS, sum(chunks), WIDTH)
    together = filled(SMALL, key[:, :, : chunks[0]], value[:, :, : chunks[0]])
    alone = filled(SMALL, key[:, :, : chunks[0]], value[:, :, : chunks[0]])
    done = chunks[0]
    for size in chunks[1:]:
        together.append(key[:, :, done : done + size], value[:, :, done : done + size])
        together.settle()
        for token in range(done, done + size):
            alone.append(key[:, :, token : token + 1], value[:, :, token : token + 1])
            alone.settle()
        done += size
    assert all(torch.equal(a, b) for a, b in zip(together.read(), alone.read(), strict=True))
    assert byte(together) == byte(alone) == bytes_of(SMALL, done)


def test_what_is_dropped_leaves_whole_groups_before_it_as_they_are() -> None:
    store = filled(SMALL, *draw(2, 1, HEADS, 40, WIDTH))
    before = store.read()[0]
    kept = [*range(9), *range(12, 40)]
    store.keep(torch.tensor(kept).expand(1, HEADS, -1))
    assert torch.equal(store.read()[0][:, :, :8], before[:, :, :8])
    assert byte(store) == bytes_of(SMALL, 37)


def test_a_run_holds_the_declared_bytes_and_prefill_is_exact(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=3)
    plain, coded = lvlm.run(request), lvlm.run(request, [SMALL])
    assert torch.equal(plain.logits_NC[0], coded.logits_NC[0])
    assert not torch.allclose(plain.logits_NC[1], coded.logits_NC[1], atol=1e-3)
    assert coded.trace.kv_byte == [bytes_of(SMALL, 400)] * 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key_bits": 0.5}, ValueError, r"key_bits must lie in \[1, 2\], got 0.5"),
        ({"value_bits": 1.5}, ValueError, "value_bits must be 1.58 or 2, got 1.5"),
        ({"group_size": 0}, ValueError, "group_size must be at least 1"),
        ({"residual_length": 0}, ValueError, "residual_length must be at least 1"),
        ({"group_size": 12, "residual_length": 24}, Refusal, "fill whole bytes, so group_size 8 or 16, got 12"),
        ({"residual_length": 48}, Refusal, "multiple of group_size 32, got 48"),
    ],
)
def test_illegal_parameters_and_sizes_that_do_not_fit_are_told_apart(
    arguments: dict[str, float], error: type[ValueError], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        VidKV(**arguments)  # type: ignore[arg-type]
    assert type(raised.value) is error
