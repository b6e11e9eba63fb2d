"""FastCache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lvlm_atlas.reference.flow.probe import Probe
from lvlm_atlas.reference.flow.states import Entries
from lvlm_atlas.reference.lvlm import LVLM, Refusal, random_request
from lvlm_atlas.reference.lvlm.contexts import CacheTokens
from lvlm_atlas.reference.modules.kept import drawn, give
from lvlm_atlas.reference.techniques.decoding.fastcache import (
    Compressor,
    FastCache,
    _Acting,
    fold,
    folded_count,
    representatives,
)


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def first(x: Tensor) -> Tensor:
    """A network that gives the first of the entries, of width 2."""
    return x[..., :2]


def layer(vision: list[bool], groups: int = 2, heads: list[list[int]] | None = None) -> CacheTokens:
    length = len(vision)
    generator = torch.Generator().manual_seed(length)
    key, value = (torch.randn(1, groups, length, 8, generator=generator) for _ in range(2))
    place = torch.arange(length).expand(1, groups, length)
    entries = Entries(key, value, torch.tensor(vision).expand(1, groups, -1), place)
    if heads:
        entries = entries.keep(torch.tensor(heads)[None])
    return CacheTokens(0, 1, entries, Probe(key, key, causal=True))


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_lengths_places_and_groups_are_those_of_the_definition(entries: int, factor: int, least: int) -> None:
    x = torch.arange(entries * 2.0).reshape(1, 1, entries, 2)
    folded, places = fold(x, factor, least, first), representatives(entries, factor, least).tolist()
    assert folded.shape[2] == len(places) == folded_count(entries, factor, least)
    groups = entries // factor
    whole = groups * factor if groups >= least else 0
    expected = [x[0, 0, start].tolist() for start in range(0, whole, factor)] + x[0, 0, whole:].tolist()
    assert folded[0, 0].tolist() == expected
    assert places == [*range(factor - 1, whole, factor), *range(whole, entries)]


def test_what_is_left_over_stays_as_it_is() -> None:
    x = torch.randn(1, 2, 13, 4, generator=torch.Generator().manual_seed(0))
    folded = fold(x, 5, 2, lambda row: row.reshape(*row.shape[:-1], 5, 4).mean(-2))
    assert folded.shape == (1, 2, 5, 4)
    assert torch.equal(folded[:, :, 2:], x[:, :, 10:])
    torch.testing.assert_close(folded[:, :, 1], x[:, :, 5:10].mean(2))


def test_a_segment_of_few_groups_stays_whole() -> None:
    x = torch.randn(1, 1, 9, 2)
    assert fold(x, 5, 2, first) is x  # one group of five: nine entries, though no fewer than min_seq_len
    assert fold(x, 4, 2, first).shape[2] == 3
    assert [folded_count(n, 5, 2) for n in (0, 4, 5, 9, 10, 14, 15)] == [0, 4, 5, 9, 2, 6, 3]
    assert folded_count(3, 5, 1) == 3


def test_picture_and_text_are_folded_apart() -> None:
    at = layer([False, True, True, True, True, False, False, False, False])
    acting = _Acting(FastCache(compress_factor=2, min_seq_len=1), drawn(lambda: Compressor(1, 2, 8)))
    entries = acting.compress_cache(at)
    assert entries.index_BGS[0, 0].tolist() == [1, 3, 4, 6, 8]
    assert entries.vision_BGS[0, 0].tolist() == [True, True, True, False, False]
    assert torch.equal(entries.key_BGSd[:, :, 2], at.entries.key_BGSd[:, :, 4])


def test_text_before_the_picture_belongs_to_its_segment() -> None:
    compressor = drawn(lambda: Compressor(1, 2, 8))
    at = layer([False, False, True, True, False, False])
    entries = _Acting(FastCache(compress_factor=2, min_seq_len=1), compressor).compress_cache(at)
    row = at.entries.key_BGSd.reshape(1, 2, 3, 16)
    torch.testing.assert_close(entries.key_BGSd[:, :, :2], compressor.compress_ik[0](row[:, :, :2]))
    torch.testing.assert_close(entries.key_BGSd[:, :, 2:], compressor.compress_tk[0](row[:, :, 2:]))


def test_a_prompt_without_a_picture_is_text() -> None:
    compressor = drawn(lambda: Compressor(1, 3, 8))
    at = layer([False] * 7)
    entries = _Acting(FastCache(compress_factor=3, min_seq_len=1), compressor).compress_cache(at)
    row = at.entries.value_BGSd[:, :, :6].reshape(1, 2, 2, 24)
    torch.testing.assert_close(entries.value_BGSd[:, :, :2], compressor.compress_tv[0](row))


def test_keys_values_pictures_and_text_have_weights_of_their_own_and_heads_share_them() -> None:
    compressor = drawn(lambda: Compressor(2, 5, 16))
    networks = [networks[1] for networks in (
        compressor.compress_ik, compressor.compress_iv, compressor.compress_tk, compressor.compress_tv
    )]  # fmt: skip
    sizes = [(linear.in_features, linear.out_features) for linear in networks[0] if isinstance(linear, nn.Linear)]
    assert sizes == [(80, 16), (16, 16), (16, 16)]
    assert len({float(network[0].weight.sum()) for network in networks}) == 4
    assert sum(weight.numel() for weight in compressor.parameters()) == 4 * 2 * (7 * 16 * 16 + 3 * 16)
    x = torch.randn(1, 1, 10, 16).expand(1, 3, 10, 16)
    key, value = compressor(0, x, x, 10, 1)
    assert torch.equal(key[:, 0], key[:, 2])
    assert not torch.equal(key, value)


def test_positions_go_on_from_the_true_length(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    run = lvlm.begin(request, [FastCache()])
    with torch.inference_mode():
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
    assert (cache.next_position == 400).all()
    trace = lvlm.run(request, [FastCache()]).trace
    assert trace.kv_entries == [folded_count(388, 5, 2) + folded_count(12, 5, 2)] * 4 == [84] * 4
    assert trace.kv_most_entries == [84 + 11] * 4


def test_networks_that_give_each_entry_back_change_nothing(device: str) -> None:
    lvlm, key = LVLM.random(device=device), ("fastcache", 1)
    compressor = Compressor(4, 1, 16)
    for networks in compressor.children():
        for layer_index in range(4):
            networks[layer_index] = nn.Identity()  # type: ignore[index,operator]
    give(lvlm, key, compressor.to(device))
    request = random_request(lvlm.config, frames=1)
    folded = lvlm.run(request, [FastCache(compress_factor=1)])
    assert torch.equal(folded.logits_NC, lvlm.run(request).logits_NC)
    assert folded.trace.kv_entries == [80] * 4


def test_entries_that_are_no_neighbours_in_the_text_are_refused() -> None:
    at = layer([True, True, True, False], heads=[[0, 1, 3], [1, 2, 3]])
    with pytest.raises(Refusal, match="layer 0 caches 3 of 4 tokens; leave out the technique that evicts the others"):
        _Acting(FastCache(), drawn(lambda: Compressor(1, 5, 8))).compress_cache(at)


def test_arguments_out_of_range_are_refused() -> None:
    for name in ("compress_factor", "min_seq_len"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            FastCache(**{name: 0})
