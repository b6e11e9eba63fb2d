"""XAttention."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvlm_atlas.reference.lvlm import LVLM, random_request
from lvlm_atlas.reference.ops.attention import share_heads
from lvlm_atlas.reference.ops.blocks import Blocks, block_sparse_attention
from lvlm_atlas.reference.techniques.prefilling.xattention import (
    XAttention,
    antidiagonal_mass,
    chunk_tokens,
    select_blocks,
)

FULL = 4 * 400 * 401 // 2  # scores of a dense layer of the tiny preset


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def masses(rows: list[list[float]], device: str) -> Tensor:
    """(1, 1, J, J) from the lower triangle."""
    return torch.tensor([[[row + [0.0] * (len(rows) - len(row)) for row in rows]]], device=device)


def kept(keep_BHJJ: Tensor, row: int) -> list[int]:
    return keep_BHJJ[0, 0, row].nonzero()[:, 0].tolist()


def selected_by_hand(mass: list[list[int]], threshold: float, first_chunk: int) -> list[list[int]]:
    """The released rule, block by block; masses differ within a row."""
    out = []
    for i, row in enumerate(mass):
        counted = {i} if i < first_chunk else {0, i}
        keep, before = {0, i}, sum(row[j] for j in counted)
        lag = 2 - len(counted)  # one block of the order is not yet in the sum
        pending = [sum(row[j] for j in counted)] if lag else []
        before = 0 if lag else before
        for j in sorted(set(range(i)) - counted, key=lambda j: -row[j]):
            if before < threshold * sum(row):
                keep.add(j)
            pending.append(row[j])
            before += pending.pop(0)
        out.append(sorted(keep))
    return out


@pytest.mark.parametrize("length", [16, 13])
def test_a_folded_product_sums_an_antidiagonal_of_products(device: str, length: int) -> None:
    stride, d = 4, 8
    query, key = randn(2, 3, length, d, device=device), randn(2, 3, length, d, device=device, seed=1)
    mass_BHJJ = antidiagonal_mass(query, key, block_size=stride, stride=stride)  # one strided token a block
    assert mass_BHJJ.shape == (2, 3, 4, 4)
    zero = torch.zeros(2, 3, d, device=device)
    token = lambda x, n: x[:, :, n] if n < length else zero  # noqa: E731
    for u in range(4):
        logit = torch.stack([
            sum((token(query, 4 * u + 3 - r) * token(key, 4 * v + r)).sum(-1) for r in range(4)) / math.sqrt(d) / 4
            for v in range(u + 1)
        ], dim=-1)  # fmt: skip
        torch.testing.assert_close(mass_BHJJ[:, :, u, : u + 1], logit.softmax(-1))
        assert not mass_BHJJ[:, :, u, u + 1 :].any()


def test_norm_divides_the_logits_once_more(device: str) -> None:
    query, key = randn(1, 1, 32, 4, device=device), randn(1, 1, 32, 4, device=device, seed=1)
    torch.testing.assert_close(antidiagonal_mass(query, key, 8, 4, 2.0), antidiagonal_mass(query / 2, key, 8, 4))


@pytest.mark.parametrize("length", [1, 31, 33, 64, 77])
def test_the_mass_of_a_row_of_blocks_is_its_number_of_strided_rows(device: str, length: int) -> None:
    query, key = randn(1, 2, length, 8, device=device), randn(1, 2, length, 8, device=device, seed=1)
    rows = antidiagonal_mass(query, key, block_size=32, stride=4).sum(-1)[0, 0]
    expected = [math.ceil(min(length - start, 32) / 4) for start in range(0, length, 32)]
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float32, device=device))


def test_padding_carries_no_mass(device: str) -> None:
    query, key = 3 * randn(1, 2, 100, 8, device=device), 3 * randn(1, 2, 100, 8, device=device, seed=1)
    padded, prefix = antidiagonal_mass(query, key, 32, 8), antidiagonal_mass(query[:, :, :96], key[:, :, :96], 32, 8)
    assert padded.shape[-1] == 4
    torch.testing.assert_close(padded[:, :, :3, :3], prefix)
    torch.testing.assert_close(padded[:, :, 3].sum(-1), torch.ones(1, 2, device=device))  # one row of four tokens


def test_blocks_enter_by_mass_until_the_sum_reaches_the_threshold(device: str) -> None:
    mass = masses([[8], [4, 4], [1, 5, 2], [1, 5, 3, 1]], device)
    assert kept(select_blocks(mass, 0.5, first_chunk=0), 3) == [0, 1, 3]  # 1 + 1 < 5, then 7
    assert kept(select_blocks(mass, 0.7, first_chunk=0), 3) == [0, 1, 3]  # reached exactly: no more
    assert kept(select_blocks(mass, 0.71, first_chunk=0), 3) == [0, 1, 2, 3]
    assert kept(select_blocks(mass, 0.1, first_chunk=0), 3) == [0, 3]


def test_in_the_first_chunk_the_sum_lags_one_block_behind(device: str) -> None:
    mass = masses([[8], [4, 4], [1, 5, 2], [1, 5, 3, 1]], device)
    assert kept(select_blocks(mass, 0.5, first_chunk=4), 3) == [0, 1, 2, 3]  # block 2 still sees the diagonal's 1
    assert kept(select_blocks(mass, 0.1, first_chunk=4), 3) == [0, 1, 3]
    assert kept(select_blocks(mass, 0.5, first_chunk=3), 3) == [0, 1, 3]  # row 3 is in the second chunk


@given(st.data())
@settings(max_examples=40)
def test_selection_equals_the_rule_block_by_block(device: str, data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, 7))
    rows = [data.draw(st.permutations(range(1, 8)))[: i + 1] for i in range(blocks)]
    threshold, first_chunk = data.draw(st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0])), data.draw(st.integers(1, 8))
    keep = select_blocks(masses([[float(m) for m in row] for row in rows], device), threshold, first_chunk)
    assert [kept(keep, i) for i in range(blocks)] == selected_by_hand(rows, threshold, first_chunk)


@pytest.mark.parametrize("first_chunk", [0, 2, 9])
def test_the_first_block_and_the_diagonal_are_always_kept(device: str, first_chunk: int) -> None:
    mass = torch.zeros(1, 1, 5, 5, device=device)
    mass[..., 1] = 1.0  # all attention on the second block
    keep = select_blocks(mass.tril(), 0.5, first_chunk)[0, 0]
    assert keep[:, 0].all()
    assert keep.diagonal().all()
    assert keep[2:, 1].all()
    assert not keep.triu(1).any()


def test_a_planted_stripe_is_found(device: str) -> None:
    query, key = randn(1, 1, 256, 8, device=device), randn(1, 1, 256, 8, device=device, seed=1)
    query[..., 0], vertical = 4.0, key.clone()
    vertical[:, :, 68, 0] = 40.0  # one key that every query looks for, in block 4
    keep = select_blocks(antidiagonal_mass(query, vertical, 16, 4), 0.5, first_chunk=0)[0, 0]
    assert keep[4:, 4].all()
    assert keep.sum() < 60  # of 136: the first column, the diagonal, the stripe and little else

    code = torch.eye(256, device=device)[None, None] * 512**0.5
    slanted = code.roll(33, dims=2)  # the query at n looks for the key at n − 33; even distances fall between samples
    keep = select_blocks(antidiagonal_mass(slanted, code, 16, 4), 0.5, first_chunk=0)[0, 0]
    assert keep.diagonal(-2).all()
    assert keep.sum() < 60


def test_attention_over_kept_blocks_equals_dense_attention_under_the_same_mask(device: str) -> None:
    query, key, value = (randn(2, h, 45, 8, device=device, seed=h) for h in (4, 2, 2))
    keep = (randn(2, 4, 6, 6, device=device, seed=7) > 0) | torch.eye(6, dtype=torch.bool, device=device)
    out, scores = block_sparse_attention(query, key, value, Blocks(keep.tril(), 8))
    seen = keep.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :45, :45].tril()
    logit = query @ share_heads(key, 4).mT / math.sqrt(8)
    torch.testing.assert_close(out, logit.masked_fill(~seen, float("-inf")).softmax(-1) @ share_heads(value, 4))
    assert scores == int(seen.sum())


@pytest.mark.parametrize(("length", "block"), [(45, 8), (48, 8), (7, 8), (400, 16)])
def test_the_least_share_is_the_diagonal_and_the_first_column(device: str, length: int, block: int) -> None:
    blocks = -(-length // block)
    keep = select_blocks(torch.ones(1, 1, blocks, blocks, device=device).tril(), 1e-9, first_chunk=0)
    query = randn(1, 1, length, 4, device=device)
    _, scores = block_sparse_attention(query, query, query, Blocks(keep, block))
    full, last = (length - 1) // block, (length - 1) % block + 1  # as the entry's `at_least` has it
    assert 2 * scores == full * block * (block + 1) + last * (last + 1) + 2 * block * max(length - block, 0)


def test_chunks_are_those_of_the_released_code() -> None:
    lengths = (1, 400, 2049, 16384, 16385, 70_000, 1_000_000)
    assert [chunk_tokens(n) for n in lengths] == [2048, 2048, 4096, 16384, 8192, 2048, 2048]


@pytest.mark.parametrize("block_size", [16, 128])
def test_a_threshold_of_1_is_dense_attention(lvlm: LVLM, block_size: int) -> None:
    request = random_request(lvlm.config)
    plain = lvlm.run(request)
    sparse = lvlm.run(request, [XAttention(stride=4, threshold=1.0, block_size=block_size, dense_layers=0)])
    assert sparse.tokens_N.tolist() == plain.tokens_N.tolist()
    assert sparse.trace.score_entries == plain.trace.score_entries == [FULL] * 4
    torch.testing.assert_close(sparse.logits_NC, plain.logits_NC, atol=1e-4, rtol=1e-4)


def test_leading_layers_stay_dense(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    for dense in range(5):
        technique = XAttention(stride=4, threshold=0.3, block_size=16, dense_layers=dense)
        scores = lvlm.run(request, [technique]).trace.score_entries
        assert [n < FULL for n in scores] == [layer >= dense for layer in range(4)]


def test_fewer_scores_are_computed_but_every_token_stays(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    plain = lvlm.run(request)
    result = lvlm.run(request, [XAttention(stride=8, threshold=0.3, block_size=32, dense_layers=0)])
    trace = result.trace
    assert trace.llm_tokens == trace.kv_entries == [400] * 4
    assert trace.kv_byte == plain.trace.kv_byte
    assert trace.probe_entries == 0
    assert all(0.2275 * FULL < scores < 0.6 * FULL for scores in trace.score_entries)
    assert not torch.allclose(result.logits_NC, plain.logits_NC, atol=1e-3)


def test_arguments_out_of_range_are_refused() -> None:
    for wrong, message in (
        ({"stride": 0}, "at least 1"),
        ({"stride": 16, "block_size": 24}, "multiple of stride 16, got 24"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"threshold": 0.0}, r"\(0, 1\]"),
        ({"threshold": 1.5}, r"\(0, 1\]"),
        ({"dense_layers": -1}, "at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            XAttention(**wrong)
