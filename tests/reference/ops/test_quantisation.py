"""Group quantisation and packing: by hand, and there and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.ops.quantisation import (
    FLOAT8,
    SIGN,
    TERNARY,
    Codes,
    Format,
    dequantise,
    dequantise_float8,
    dequantise_sign,
    dequantise_ternary,
    pack,
    pack_trits,
    quantise,
    quantise_float8,
    quantise_sign,
    quantise_ternary,
    uniform,
    unpack,
    unpack_trits,
)


def test_four_numbers_become_one_byte(device: str) -> None:
    codes = quantise(torch.tensor([[3.0, 1.0, 0.0, 2.0]], device=device), group_size=4, bits=2)
    assert codes.packed.tolist() == [[0b10_00_01_11]]
    assert (codes.scale.tolist(), codes.zero.tolist()) == ([[1.0]], [[0.0]])
    assert dequantise(codes, 4, 2).tolist() == [[3.0, 1.0, 0.0, 2.0]]


def test_a_level_halfway_between_two_rounds_to_the_even_one(device: str) -> None:
    codes = quantise(torch.tensor([0.0, 0.5, 1.5, 3.0], device=device), group_size=4, bits=2)
    assert unpack(codes.packed, 2).tolist() == [0, 0, 2, 3]


def test_a_clipped_range_moves_both_ends_towards_0_and_what_lies_outside_becomes_an_end(device: str) -> None:
    x = torch.tensor([-2.0, -0.9, 0.1, 1.0, 2.0, 3.0, 4.0, 0.0], device=device)
    codes = quantise(x, group_size=8, bits=1, clip=0.5)
    assert (codes.zero.tolist(), codes.scale.tolist()) == ([-1.0], [3.0])
    assert dequantise(codes, 8, 1).tolist() == [-1.0, -1.0, -1.0, 2.0, 2.0, 2.0, 2.0, -1.0]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_more_bits_never_raise_an_error(seed: int) -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed))
    errors = [(dequantise(quantise(x, 16, bits), 16, bits) - x).abs() for bits in (2, 4, 8)]
    assert (errors[0] >= errors[1] - 1e-6).all()
    assert (errors[1] >= errors[2] - 1e-6).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_unpacking_undoes_packing(bits: int, device: str) -> None:
    code = torch.randint(0, 2**bits, (3, 5, 16), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    packed = pack(code.to(device), bits)
    assert packed.shape == (3, 5, 16 * bits // 8)
    assert int(packed[0, 0, 0]) % 2**bits == int(code[0, 0, 0]), "the first code lies in the lowest bits"
    assert torch.equal(unpack(packed, bits).cpu(), code)


def test_codes_of_three_bits_cross_the_borders_of_bytes(device: str) -> None:
    code = torch.tensor([0b001, 0b010, 0b111, 0, 0, 0b101, 0, 0b110], dtype=torch.uint8, device=device)
    assert pack(code, 3).tolist() == [0b11_010_001, 0b1_000_000_1, 0b110_000_10]


def test_arithmetic_and_scales_are_in_the_type_of_the_numbers(device: str) -> None:
    x = torch.tensor([0.0, 0.1, 0.7, 1.0], device=device, dtype=torch.float16)
    codes = quantise(x, group_size=4, bits=2)
    assert codes.scale.dtype == codes.zero.dtype == torch.float16
    assert codes.scale.item() == (x[3] / 3).item()
    assert dequantise(codes, 4, 2).dtype == torch.float16


def test_one_bit_of_sign_is_the_mean_magnitude_with_the_sign_of_the_number(device: str) -> None:
    x = torch.tensor([1.0, -2.0, 0.0, -0.0, 3.0, -1.0, 0.5, -0.5], device=device)
    codes = quantise_sign(x, group_size=4)
    assert codes.packed.tolist() == [0b01_01_11_01]
    assert codes.scale.tolist() == [0.75, 1.25]
    assert dequantise_sign(codes, 4).tolist() == [0.75, -0.75, 0.75, 0.75, 1.25, -1.25, 1.25, -1.25]


def test_three_levels_are_the_mean_magnitude_beyond_half_of_it_and_0(device: str) -> None:
    x = torch.tensor([4.0, -4.0, 1.5, -1.5, 1.0, 0.0], device=device)  # mean magnitude 2: the threshold is 1
    codes = quantise_ternary(x, group_size=6)
    assert dequantise_ternary(codes, 6).tolist() == [2.0, -2.0, 2.0, -2.0, 0.0, 0.0]
    assert codes.packed.tolist() == [2 + 0 * 3 + 2 * 9 + 0 * 27 + 1 * 81, 1]
    assert [one.shape[-1] for one in codes.tensors] == [2, 1]


def test_five_numbers_of_three_levels_take_a_byte(device: str) -> None:
    trit = torch.cartesian_prod(*[torch.arange(3)] * 5).to(torch.uint8).to(device)
    packed = pack_trits(trit)
    assert sorted(packed[:, 0].tolist()) == [*range(243)]
    assert torch.equal(unpack_trits(packed, 5), trit)
    assert quantise_ternary(torch.ones(3, 40, device=device), 40).packed.shape == (3, 8), "1.6 bits a number"


@given(seed=st.integers(0, 10**6), spread=st.integers(-3, 3), group_size=st.sampled_from([8, 16, 40]))
@settings(max_examples=30)
def test_no_number_is_off_by_more_than_the_stated_bounds(seed: int, spread: int, group_size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2 * group_size, generator=generator) * 10.0**spread
    x[torch.rand(x.shape, generator=generator) < 0.2] = 0
    grouped = x.unflatten(-1, (-1, group_size))
    most, tiny = grouped.abs().amax(-1, keepdim=True), 1e-6 * 10.0**spread

    def error(encode: Callable[[Tensor, int], Codes], decode: Callable[[Codes, int], Tensor]) -> tuple[Tensor, Tensor]:
        codes = encode(x, group_size)
        return (decode(codes, group_size) - x).abs().unflatten(-1, (-1, group_size)), codes.scale[..., None]

    off, scale = error(quantise_sign, dequantise_sign)
    assert (off <= torch.maximum(scale, most - scale) + tiny).all()
    off, scale = error(quantise_ternary, dequantise_ternary)
    assert (off <= torch.maximum(scale / 2, most - scale) + tiny).all()
    off, scale = error(quantise_float8, dequantise_float8)
    assert (off <= torch.maximum(grouped.abs() / 16, scale / 1024) + tiny).all()
    for bits, clip in ((1, 1.0), (1, 0.3), (2, 0.8), (4, 0.5)):
        off, scale = error(partial(quantise, bits=bits, clip=clip), partial(dequantise, bits=bits))
        low, high = (end(grouped, -1, keepdim=True) * clip for end in (torch.amin, torch.amax))
        assert (off <= torch.maximum(scale / 2, torch.maximum(grouped - high, low - grouped)) + tiny).all()


def test_the_greatest_number_of_a_group_is_exact_in_e4m3_and_small_ones_are_not_lost(device: str) -> None:
    x = torch.tensor([448.0, -448.0, 1.0, 1.0625, 2.0**-9, 0.0, 17.0, -3.5], device=device)
    codes = quantise_float8(x, group_size=8)
    assert (codes.packed.dtype, codes.packed.shape[-1], codes.scale.tolist()) == (torch.uint8, 8, [1.0])
    assert dequantise_float8(codes, 8).tolist() == [448.0, -448.0, 1.0, 1.0, 2.0**-9, 0.0, 16.0, -3.5]


@pytest.mark.parametrize("form", [uniform(1), SIGN, TERNARY, FLOAT8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_group_of_zeros_reads_back_as_zeros_in_its_own_type(form: Format, dtype: torch.dtype, device: str) -> None:
    x = torch.zeros(2, 16, device=device, dtype=dtype)
    read = form.decode(form.encode(x, 8), 8)
    assert (read.dtype, read.abs().max().item()) == (dtype, 0.0)


@pytest.mark.parametrize("form", [uniform(2), SIGN, TERNARY, FLOAT8])
def test_codes_that_follow_one_another_read_as_one(form: Format, device: str) -> None:
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).to(device)
    parts = form.encode(x[..., :16], 8).then(form.encode(x[..., 16:], 8), dim=-1)
    assert torch.equal(form.decode(parts, 8), form.decode(form.encode(x, 8), 8))
