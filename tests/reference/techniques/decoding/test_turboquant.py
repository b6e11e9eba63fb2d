"""TurboQuant: the codebook, the rotation, the sketch, and the store inside the LVLM."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from lvlm_atlas.reference.caches.store import Store
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm.contexts import CacheBits
from lvlm_atlas.reference.lvlm.model import LVLM
from lvlm_atlas.reference.lvlm.random_request import random_request
from lvlm_atlas.reference.lvlm.technique import Run
from lvlm_atlas.reference.ops.quantisation import Format, unpack
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.turboquant import (
    Tables,
    TurboQuant,
    codebook,
    dequantise_rotated,
    quantise_rotated,
    rotated_codebook,
    sketch,
    unbiased_codebook,
    unsketch,
)

HEADS = 2


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


@cache
def run_on(device: str) -> Run:
    lvlm = LVLM.random(device=device)
    return lvlm.begin(random_request(lvlm.config))


def filled(technique: TurboQuant, key: Tensor, value: Tensor) -> Store:
    nothing = torch.zeros(key.shape[:3], dtype=torch.bool, device=key.device)
    acting = technique.begin(run_on(str(key.device)))
    store = acting.new_store(CacheBits(0, 1, Entries(key, value, nothing, nothing.long())))
    store.append(key, value)
    store.settle()
    return store


def form_of(width: int, bits: int, seed: int, *, unbiased: bool) -> Format:
    return unbiased_codebook(Tables(width, bits - 1, seed)) if unbiased else rotated_codebook(Tables(width, bits, seed))


def squared_error(x: Tensor, bits: int, seeds: int, *, unbiased: bool = False) -> float:
    """The mean of |x − x̂|² / |x|² over rotations."""
    total = 0.0
    for seed in range(seeds):
        form = form_of(x.shape[-1], bits, seed, unbiased=unbiased)
        total += float((form.decode(form.encode(x, 0), 0) - x).square().sum() / x.square().sum())
    return total / seeds


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [(1, [0.7979]), (2, [0.4528, 1.5104]), (3, [0.2451, 0.7560, 1.3439, 2.1520])],
    ids=["1", "2", "3"],
)
def test_in_many_dimensions_the_codebook_is_the_one_of_a_gaussian(bits: int, wanted: list[float]) -> None:
    width = 4096
    centroids = [c * width**0.5 for c in codebook(width, bits)]
    assert centroids[2 ** (bits - 1) :] == pytest.approx(wanted, abs=0.01)
    assert centroids == pytest.approx([-c for c in reversed(centroids)], abs=1e-3)


def test_one_bit_in_three_dimensions_by_hand() -> None:
    assert codebook(3, 1) == pytest.approx((-0.5, 0.5), abs=1e-6), "a coordinate is spread evenly over −1 … 1"
    assert codebook(3, 2) == pytest.approx((-0.75, -0.25, 0.25, 0.75), abs=1e-3)


@pytest.mark.parametrize("width", [8, 16, 64, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_every_centroid_is_the_mean_of_its_cell(width: int, bits: int) -> None:
    centroid = torch.tensor(codebook(width, bits), dtype=torch.float64)
    assert (centroid.diff() > 0).all()
    t = torch.linspace(-1, 1, 50_001, dtype=torch.float64)
    mass = (1 - t.square()).clamp(min=0) ** ((width - 3) / 2)
    cell = torch.bucketize(t, (centroid[1:] + centroid[:-1]) / 2)
    mean = torch.stack([(mass * t)[cell == each].sum() / mass[cell == each].sum() for each in range(2**bits)])
    torch.testing.assert_close(centroid, mean, atol=2e-3 * width**-0.5, rtol=0)


@pytest.mark.parametrize("width", [8, 16, 64])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mean_error_over_rotations_keeps_the_bound_for_any_vector(width: int, bits: int) -> None:
    bound = 3**0.5 * torch.pi / 2 * 4.0**-bits
    one_channel = torch.zeros(1, width)
    one_channel[0, 1] = 50.0
    for x in (one_channel, torch.ones(1, width), draw(1, width)):
        assert squared_error(x, bits, seeds=60) < bound
        assert squared_error(x, bits, seeds=60) > bound / 8, "an error too small would be no error of b bits"


def test_without_the_rotation_an_outlier_channel_would_break_the_bound() -> None:
    x = torch.zeros(1, 64)
    x[0, 1] = 1.0
    tables = Tables(64, 2)
    tables.rotation_dd = torch.eye(64)
    form = rotated_codebook(tables)
    assert float((form.decode(form.encode(x, 0), 0) - x).square().sum()) > 0.3


def test_the_norm_is_kept_beside_the_codes_and_scales_with_the_vector(device: str) -> None:
    x = draw(5, 16, device=device)
    tables = Tables(16, 3).to(device)
    code, norm = quantise_rotated(x, tables)
    far, far_norm = quantise_rotated(x * 1024, tables)
    assert torch.equal(code, far)
    torch.testing.assert_close(far_norm, norm * 1024)
    assert int(code.max()) < 8
    torch.testing.assert_close(dequantise_rotated(far, far_norm, tables), 1024 * dequantise_rotated(code, norm, tables))


def test_a_zero_vector_reads_back_as_zeros(device: str) -> None:
    key = torch.zeros(1, HEADS, 3, 16, device=device)
    for unbiased in (False, True):
        read = filled(TurboQuant(3, unbiased), key, key).read()
        assert all(x.abs().max() == 0 for x in read)


def test_products_of_the_unbiased_form_are_right_on_average_and_of_the_other_too_small() -> None:
    x, query = draw(1, 16), draw(1, 16, seed=1)
    x = x + query  # so that the product is no accident near 0
    wanted, seeds = float(x @ query.mT), 800
    products = dict.fromkeys((False, True), 0.0)
    for seed in range(seeds):
        for unbiased in products:
            form = form_of(16, 2, seed, unbiased=unbiased)
            products[unbiased] += float(form.decode(form.encode(x, 0), 0) @ query.mT) / seeds
    assert products[True] == pytest.approx(wanted, rel=0.04)
    assert products[False] < 0.93 * wanted


def test_the_unbiased_form_has_the_larger_squared_error() -> None:
    x = draw(4, 16)
    assert squared_error(x, 3, 20, unbiased=True) > 1.3 * squared_error(x, 3, 20)


def test_a_sketch_of_one_number_is_its_sign(device: str) -> None:
    gaussian = torch.eye(2, device=device)
    sign, norm = sketch(torch.tensor([[3.0, -4.0]], device=device), gaussian)
    assert (sign.tolist(), norm.tolist()) == ([[1, 0]], [[5.0]])
    expected = 5 * (torch.pi / 2) ** 0.5 / 2
    assert unsketch(sign, norm, gaussian).flatten().tolist() == pytest.approx([expected, -expected])


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("width", [8, 16])
def test_bytes_are_codes_and_norms(bits: int, unbiased: bool, width: int, device: str) -> None:
    key, value = draw(2, 1, HEADS, 7, width, device=device)
    store = filled(TurboQuant(bits, unbiased), key, value)
    vectors = 2 * HEADS * 7
    norms = vectors + (vectors // 2 if unbiased else 0)
    assert sum(x.nbytes for x in store.tensors) == vectors * width * bits // 8 + norms * 4
    half = filled(TurboQuant(bits, unbiased), key.half(), value.half())
    assert sum(x.nbytes for x in half.tensors) == vectors * width * bits // 8 + norms * 2
    assert half.read()[0].dtype == torch.float16


def test_tokens_are_coded_one_by_one_once_they_settle() -> None:
    key, value = draw(2, 1, HEADS, 9, 16)
    together, store = filled(TurboQuant(), key, value), filled(TurboQuant(), key[:, :, :5], value[:, :, :5])
    store.append(key[:, :, 5:], value[:, :, 5:])
    assert torch.equal(store.read()[0][:, :, 5:], key[:, :, 5:]), "not yet settled"
    store.settle()
    assert all(torch.equal(one, other) for one, other in zip(store.read(), together.read(), strict=True))
    index = torch.tensor([[[0, 2, 8], [1, 2, 3]]])
    before = together.read()
    together.keep(index)
    for one, other in zip(before, together.read(), strict=True):
        assert torch.equal(one.gather(2, index[..., None].expand(-1, -1, -1, 16)), other)


def test_keys_are_rotated_by_one_matrix_in_all_layers_and_heads() -> None:
    key = draw(1, 1, 4, 16).expand(1, HEADS, 4, 16)
    read = filled(TurboQuant(), key, key).read()
    assert torch.equal(read[0][:, 0], read[0][:, 1])
    assert torch.equal(*read)
    codes = filled(TurboQuant(4), key, key).tensors[1]
    assert unpack(codes, 4).shape == (1, HEADS, 4, 16)


def test_a_run_holds_the_declared_bytes_and_prefill_is_exact(device: str) -> None:
    lvlm = LVLM.random(device=device)
    request = random_request(lvlm.config, max_new_tokens=4)
    plain, small, fine = (lvlm.run(request, stack) for stack in ([], [TurboQuant(2)], [TurboQuant(4)]))
    assert torch.equal(plain.logits_NC[0], small.logits_NC[0])
    off = [(run.logits_NC[1] - plain.logits_NC[1]).abs().max() for run in (small, fine)]
    assert off[0] > off[1] > 0
    groups, width = lvlm.config.text.num_key_value_heads, lvlm.config.text.head_dim
    assert small.trace.kv_byte == [2 * 400 * groups * (width // 4 + 4)] * 4


def test_widths_that_fill_no_whole_bytes_and_unknown_bits_are_told() -> None:
    key = draw(1, HEADS, 3, 12)
    with pytest.raises(Refusal, match="it has 12 channels, no multiple of 8"):
        filled(TurboQuant(), key, key)
    with pytest.raises(ValueError, match="bits must be 2, 3, 4 or 16, got 8"):
        TurboQuant(8)
