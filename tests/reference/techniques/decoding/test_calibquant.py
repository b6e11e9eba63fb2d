"""CalibQuant: ranges of channels, post-scaling, calibration, and the store inside the LVLM."""

from __future__ import annotations

from dataclasses import replace

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
from lvlm_atlas.reference.ops.attention import attend
from lvlm_atlas.reference.ops.quantisation import levels
from lvlm_atlas.reference.techniques.decoding.calibquant import (
    CalibQuant,
    calibrated,
    post_scaled_logits,
    post_scaled_output,
)

HEADS, WIDTH = 2, 16
UNCALIBRATED = CalibQuant(lower_top=0)


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def vision(*places: bool) -> Tensor:
    return torch.tensor(places).expand(1, HEADS, -1)


def filled(technique: CalibQuant, key: Tensor, value: Tensor, vision_BGS: Tensor | None = None) -> Store:
    where = torch.ones(key.shape[:3], dtype=torch.bool) if vision_BGS is None else vision_BGS
    where = where.to(key.device)
    store = technique.new_store(CacheBits(0, 1, Entries(key, value, where, where.long())))
    store.append(key, value)
    store.settle()
    return store


def byte(store: Store) -> int:
    return sum(x.nbytes for x in store.tensors)


def test_both_ends_of_a_range_are_multiplied_by_the_clip(device: str) -> None:
    channel = torch.tensor([4.0, 8.0, 5.0, 6.0], device=device)[None, None, :, None].expand(1, HEADS, 4, WIDTH)
    key, value = filled(CalibQuant(key_clip=0.5, value_clip=0.25), channel, -channel).read()
    assert key[0, 0, :, 0].tolist() == [4.0, 4.0, 4.0, 4.0], "the ends are 2 and 4, and all numbers lie above"
    assert value[0, 0, :, 0].tolist() == [-2.0, -2.0, -2.0, -2.0]
    mixed = torch.tensor([-2.0, 6.0, 0.9, 1.1], device=device)[None, None, :, None].expand(1, HEADS, 4, WIDTH)
    assert filled(CalibQuant(), mixed, mixed).read()[0][0, 0, :, 0].tolist() == [-1.0, 3.0, -1.0, 3.0]


def test_the_zero_point_is_no_whole_code(device: str) -> None:
    x = torch.tensor([-0.3, 0.1, 0.4, 0.6], device=device)[None, None, :, None].expand(1, HEADS, 4, WIDTH)
    key = filled(CalibQuant(bits=2), x, x).read()[0]
    torch.testing.assert_close(key[0, 0, :, 0], torch.tensor([-0.3, 0.0, 0.3, 0.6], device=device))


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_a_channel_of_equal_numbers_reads_back_clipped_and_finite(bits: int, device: str) -> None:
    x = torch.full((1, HEADS, 5, WIDTH), 0.7, device=device)
    key, value = filled(CalibQuant(bits=bits), x, x).read()
    torch.testing.assert_close(key, x * (0.5 if bits == 1 else 1.0))
    torch.testing.assert_close(value, x * (0.3 if bits == 1 else 1.0))


@given(bits=st.sampled_from([1, 2, 4, 8]), length=st.integers(1, 40), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_no_number_is_off_by_more_than_half_a_step_or_what_it_lies_outside(bits: int, length: int, seed: int) -> None:
    key, value = draw(2, 1, HEADS, length, WIDTH, seed=seed)
    clips = (0.5, 0.3) if bits == 1 else (1.0, 1.0)
    for x, read, clip in zip((key, value), filled(CalibQuant(bits), key, value).read(), clips, strict=True):
        low, high = x.amin(2, keepdim=True) * clip, x.amax(2, keepdim=True) * clip
        half_step = (high - low) / (2**bits - 1) / 2
        bound = torch.maximum(half_step, torch.maximum(x - high, low - x))
        assert ((read - x).abs() <= bound + 1e-6).all()


def test_ranges_are_those_of_channels_over_all_vision_tokens(device: str) -> None:
    key = draw(1, HEADS, 12, WIDTH, device=device)
    key[:, :, :, 3] *= 1000
    read = filled(CalibQuant(bits=8), key, key).read()[0]
    others = [channel for channel in range(WIDTH) if channel != 3]
    assert (read - key)[..., others].abs().max() < 0.02
    assert (read - key)[..., 3].abs().max() > 1


def test_text_and_what_is_generated_stay_exact(device: str) -> None:
    key, value = draw(2, 1, HEADS, 6, WIDTH, device=device)
    store = filled(CalibQuant(), key, value, vision(False, True, True, False, True, False))
    store.append(*draw(2, 1, HEADS, 3, WIDTH, seed=1, device=device))
    store.settle()
    whole = torch.cat([key, draw(2, 1, HEADS, 3, WIDTH, seed=1, device=device)[0]], dim=2)
    same = (store.read()[0] == whole).all(-1)[0]
    assert same.tolist() == [[True, False, False, True, False, True, True, True, True]] * HEADS
    rows = 2 * HEADS * (3 * WIDTH // 8 + 6 * WIDTH * 4)
    assert byte(store) == rows + 2 * HEADS * WIDTH * 2 * 4, "bits, exact entries, and two numbers a channel"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_and_two_numbers_a_channel_are_all_that_is_held(bits: int, device: str) -> None:
    store = filled(CalibQuant(bits), *draw(2, 1, HEADS, 21, WIDTH, device=device))
    assert byte(store) == 2 * HEADS * WIDTH * 21 * bits // 8 + 2 * HEADS * WIDTH * 2 * 4
    assert (
        byte(filled(CalibQuant(bits), *draw(2, 1, HEADS, 4, WIDTH), vision(*[False] * 4))) == 2 * HEADS * 4 * WIDTH * 4
    )


def test_entries_of_a_later_image_keep_to_the_ranges_of_the_first() -> None:
    key, value = draw(2, 1, HEADS, 5, WIDTH)
    store = filled(CalibQuant(bits=2), key, value)
    before = store.read()[0]
    store.announce(vision(True, True, False))
    store.append(10 * key[:, :, :3], value[:, :, :3])
    store.settle()
    read = store.read()[0]
    assert torch.equal(read[:, :, :5], before)
    assert (read[:, :, 5:7] <= key.amax(2, keepdim=True) + 1e-6).all()
    assert torch.equal(read[:, :, 7:], 10 * key[:, :, 2:3])
    assert byte(store) == 2 * HEADS * (7 * WIDTH * 2 // 8 + WIDTH * 4 + WIDTH * 2 * 4)


def test_an_evicted_entry_leaves_the_codes_of_the_others_as_they_are() -> None:
    store = filled(CalibQuant(), *draw(2, 1, HEADS, 6, WIDTH))
    before, index = store.read(), torch.tensor([[[0, 2, 5], [1, 2, 3]]])
    store.keep(index)
    for one, other in zip(before, store.read(), strict=True):
        assert torch.equal(one.gather(2, index[..., None].expand(-1, -1, -1, WIDTH)), other)
    store.keep(index[..., :0])
    assert byte(store) == 0


def test_a_head_without_vision_entries_has_ranges_where_others_have_some() -> None:
    where = torch.tensor([[[True, True, False], [False, False, False]]])
    store = filled(CalibQuant(), *draw(2, 1, HEADS, 3, WIDTH), where)
    assert byte(store) == 2 * (2 * WIDTH // 8 + 4 * WIDTH * 4 + HEADS * WIDTH * 2 * 4)


def test_post_scaling_is_attention_to_what_is_read_back(device: str) -> None:
    query, key, value = draw(3, 1, HEADS, 9, WIDTH, device=device)
    technique = CalibQuant(bits=2)
    read_key, read_value = filled(technique, key, value).read()
    levels_ = []
    for x in (key, value):
        zero, scale = levels(x, 2, 2)
        levels_.append((((x - zero) / scale).round(), scale, zero))
    logits = post_scaled_logits(query, *levels_[0])
    torch.testing.assert_close(logits, query @ read_key.mT, atol=1e-4, rtol=1e-5)
    out = post_scaled_output((logits / WIDTH**0.5).softmax(-1), *levels_[1])
    torch.testing.assert_close(out, attend(query, read_key, read_value), atol=1e-5, rtol=1e-4)


def test_calibration_by_hand(device: str) -> None:
    logits = torch.tensor([[[[0.0, 2.0, 9.0, 10.0, 5.0]]]], device=device)
    seen = torch.tensor([[[True, True, False, True, True]]], device=device)
    assert calibrated(logits, seen, 3.0, 0.0).flatten().tolist() == pytest.approx([0.0, 1.4, 9.0, 7.0, 3.5])
    assert calibrated(logits, seen, 3.0, 2.0).flatten().tolist() == pytest.approx([2.0, 3.0, 9.0, 7.0, 4.5])
    assert torch.equal(calibrated(logits, ~seen, 3.0, 0.0), logits), "one entry has no spread"
    assert torch.equal(calibrated(logits, torch.zeros_like(seen), 3.0, 0.0), logits)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_calibration_moves_vision_logits_alone(seed: int) -> None:
    logits, seen = draw(1, 3, 2, 11, seed=seed) * 5, draw(1, 3, 11, seed=seed + 1) > 0
    moved = calibrated(logits, seen, 3.0, 0.0)
    still = ~seen[:, :, None].expand(-1, -1, 2, -1)
    assert torch.equal(moved[still], logits[still])
    torch.testing.assert_close(calibrated(logits, seen, 0.0, 0.0), logits)


def test_each_row_of_each_head_is_mapped_by_its_own_ends() -> None:
    logits, seen = draw(1, 3, 2, 11) * 5, torch.ones(1, 3, 11, dtype=torch.bool)
    moved = calibrated(logits, seen, 3.0, 0.5)
    torch.testing.assert_close(moved.amax(-1), logits.amax(-1) - 3)
    torch.testing.assert_close(moved.amin(-1), logits.amin(-1) + 0.5)


def test_a_row_that_spreads_less_than_it_is_lowered_comes_out_reversed() -> None:
    moved = calibrated(torch.tensor([[[[0.0, 1.0]]]]), torch.ones(1, 1, 2, dtype=torch.bool), 3.0, 0.0)
    assert moved.flatten().tolist() == [0.0, -2.0]


def test_a_step_attends_by_calibrated_logits(device: str) -> None:
    key, value = draw(2, 1, HEADS, 6, WIDTH, device=device)
    query = 5 * draw(1, 2 * HEADS, 1, WIDTH, seed=2, device=device)
    where = vision(False, True, True, True, False, True).to(device)
    store = filled(CalibQuant(), key, value, where)
    held = Entries(key, value, where, where.long()).held
    read_key, read_value = store.read()
    bias = store.logit_bias(query, read_key, lambda: held)
    logits = query @ read_key.repeat_interleave(2, dim=1).mT / WIDTH**0.5
    wanted = calibrated(logits, where.repeat_interleave(2, dim=1), 3.0, 0.0).softmax(-1)
    torch.testing.assert_close(
        attend(query, read_key, read_value, bias), wanted @ read_value.repeat_interleave(2, dim=1), atol=1e-5, rtol=1e-4
    )
    assert filled(replace(CalibQuant(), bits=4), key, value, where).logit_bias(query, read_key, lambda: held) is None
    assert filled(UNCALIBRATED, key, value, where).logit_bias(query, read_key, lambda: held) is None


def test_prefill_is_exact_and_calibration_shows_in_what_follows(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=3)
    plain, coded, calm = (lvlm.run(request, stack) for stack in ([], [UNCALIBRATED], [CalibQuant()]))
    assert torch.equal(plain.logits_NC[0], coded.logits_NC[0])
    assert torch.equal(plain.logits_NC[0], calm.logits_NC[0])
    assert not torch.allclose(plain.logits_NC[1], coded.logits_NC[1], atol=1e-4)
    assert not torch.allclose(coded.logits_NC[1], calm.logits_NC[1], atol=1e-4)


def test_a_run_holds_bits_for_vision_and_all_of_text() -> None:
    lvlm = LVLM.random()
    request = random_request(lvlm.config, max_new_tokens=3)
    trace = lvlm.run(request, [CalibQuant()]).trace
    coded, text = trace.llm_vision_tokens[0], trace.kv_entries[0] - trace.llm_vision_tokens[0]
    groups, width = lvlm.config.text.num_key_value_heads, lvlm.config.text.head_dim
    assert trace.kv_byte == [2 * groups * width * (coded // 8 + 2 * 4 + text * 4)] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 3}, "bits must be 1, 2, 4, 8 or 16, got 3"),
        ({"key_clip": 0.0}, r"key_clip must lie in \(0, 1\], got 0.0"),
        ({"value_clip": 1.5}, r"value_clip must lie in \(0, 1\], got 1.5"),
        ({"lower_top": -1.0}, "lower_top must be at least 0, got -1.0"),
        ({"raise_bottom": -0.5}, "raise_bottom must be at least 0, got -0.5"),
    ],
)
def test_illegal_parameters_are_told(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibQuant(**arguments)
