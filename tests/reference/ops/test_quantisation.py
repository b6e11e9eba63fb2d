"""Group quantisation and packing: by hand, and there and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvlm_atlas.reference.ops.quantisation import dequantise, pack, quantise, unpack


def test_four_numbers_become_one_byte(device: str) -> None:
    codes = quantise(torch.tensor([[3.0, 1.0, 0.0, 2.0]], device=device), group_size=4, bits=2)
    assert codes.packed.tolist() == [[0b10_00_01_11]]
    assert (codes.scale.tolist(), codes.zero.tolist()) == ([[1.0]], [[0.0]])
    assert dequantise(codes, 4, 2).tolist() == [[3.0, 1.0, 0.0, 2.0]]


def test_a_level_halfway_between_two_rounds_to_the_even_one(device: str) -> None:
    codes = quantise(torch.tensor([0.0, 0.5, 1.5, 3.0], device=device), group_size=4, bits=2)
    assert unpack(codes.packed, 2).tolist() == [0, 0, 2, 3]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_more_bits_never_raise_an_error(seed: int) -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed))
    errors = [(dequantise(quantise(x, 16, bits), 16, bits) - x).abs() for bits in (2, 4, 8)]
    assert (errors[0] >= errors[1] - 1e-6).all()
    assert (errors[1] >= errors[2] - 1e-6).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_unpacking_undoes_packing(bits: int, device: str) -> None:
    code = torch.randint(0, 2**bits, (3, 5, 16), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    packed = pack(code.to(device), bits)
    assert packed.shape == (3, 5, 16 * bits // 8)
    assert int(packed[0, 0, 0]) % 2**bits == int(code[0, 0, 0]), "the first code lies in the lowest bits"
    assert torch.equal(unpack(packed, bits).cpu(), code)


def test_arithmetic_and_scales_are_in_the_type_of_the_numbers(device: str) -> None:
    x = torch.tensor([0.0, 0.1, 0.7, 1.0], device=device, dtype=torch.float16)
    codes = quantise(x, group_size=4, bits=2)
    assert codes.scale.dtype == codes.zero.dtype == torch.float16
    assert codes.scale.item() == (x[3] / 3).item()
    assert dequantise(codes, 4, 2).dtype == torch.float16
