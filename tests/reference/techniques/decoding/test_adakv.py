"""Ada-KV."""

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
from lvlm_atlas.reference.ops.budget import head_budgets
from lvlm_atlas.reference.refusal import Refusal
from lvlm_atlas.reference.techniques.decoding.adakv import AdaKV, select
from lvlm_atlas.reference.techniques.decoding.pyramidkv import PyramidKV
from lvlm_atlas.reference.techniques.decoding.snapkv import SnapKV, votes
from lvlm_atlas.reference.techniques.decoding.speculative_sampling import SpeculativeSampling


@pytest.fixture(scope="module")
def lvlm(device: str) -> LVLM:
    return LVLM.random(device=device)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(length: int, sharpness: tuple[float, ...] = (1.0, 4.0), number: int = 0, layers: int = 1) -> CacheTokens:
    """A layer whose key-value heads attend the sharper the greater their number; two query heads each."""
    heads = len(sharpness)
    query, key, value = (randn(1, count, length, 8, seed=i) for i, count in enumerate((2 * heads, heads, heads)))
    key = key * torch.tensor(sharpness)[None, :, None, None]
    place = torch.arange(length).expand(1, heads, length)
    return CacheTokens(number, layers, Entries(key, value, place < 0, place), Probe(query, key, causal=True))


def places(entries: Entries) -> list[list[int]]:
    """The tokens that each head of the first sequence holds."""
    visible = entries.held.visible_BGS[0]
    return [index[real].tolist() for index, real in zip(entries.index_BGS[0], visible, strict=True)]


def test_a_head_keeps_as_many_as_it_has_among_the_best_of_all() -> None:
    vote = torch.tensor([[[9.0, 1, 8, 7, 6], [2, 5, 3, 0, 0]]])
    mask = select(vote, torch.tensor([[4, 0]]), 2)
    assert [head.nonzero()[:, 0].tolist() for head in mask[0]] == [[0, 2, 3, 4, 5, 6], [5, 6]]
    mask = select(vote, torch.tensor([[2, 2]]), 1)
    assert [head.nonzero()[:, 0].tolist() for head in mask[0]] == [[0, 2, 5], [1, 2, 5]]


@given(
    st.integers(1, 6), st.integers(1, 20), st.integers(0, 40), st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    st.lists(st.floats(0.1, 6), min_size=1, max_size=4),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_budgets_and_entries_are_those_of_the_definition(
    window: int, base: int, longer: int, floor: float, sharpness: list[float]
) -> None:
    at, heads, before = layer(window + base + longer, tuple(sharpness)), len(sharpness), base + longer
    got = places(AdaKV(window, window + base, floor, 3, "avgpool").compress_cache(at))
    vote = votes(at.probe.rows(slice(-window, None)), heads, 3, "mean", "mean")[0].tolist()
    order = sorted((-vote[h][i], h, i) for h in range(heads) for i in range(before))
    hits = [sum(h == head for _, h, _ in order[: heads * base]) for head in range(heads)]
    assert sum(map(len, got)) == heads * (window + base)
    for head in range(heads):
        own = len(got[head]) - window
        assert own >= int(floor * base)
        assert abs(own - (floor * base + (1 - floor) * hits[head])) < 1 + 1e-9
        best = sorted(range(before), key=lambda i: (-vote[head][i], i))[:own]
        assert got[head] == [*sorted(best), *range(before, before + window)]
        if not floor:
            assert own == hits[head]


def test_heads_that_attend_widely_keep_more() -> None:
    counts = [len(head) for head in places(AdaKV(8, 28).compress_cache(layer(200)))]
    assert counts[0] != counts[1]
    assert sum(counts) == 56
    # With the same votes, one head as flat as can be: each of its entries beats the sharp one's small ones.
    flat = torch.full((1, 1, 40), 1 / 40)
    sharp = torch.cat([torch.ones(1, 1, 1), torch.zeros(1, 1, 39)], dim=-1)
    assert head_budgets(torch.cat([flat, sharp], dim=1), 10, 0.2).tolist() == [[17, 3]]


def test_votes_are_not_scaled_head_by_head() -> None:
    # Both heads rank alike, but the second's window attends to itself: what it pays outside is a tenth.
    weight = torch.rand(1, 1, 3, 30, generator=torch.Generator().manual_seed(1))
    vote = votes(torch.cat([weight, weight / 10], dim=1), 2, 1, "mean", "mean")
    assert head_budgets(vote, 5, 0.0).tolist() == [[10, 0]]


def test_with_all_of_the_budget_safe_it_is_snapkv(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    even = lvlm.run(request, [AdaKV(window_size=8, base_capacity=60, floor_alpha=1.0)])
    snap = lvlm.run(request, [SnapKV(8, 60, kernel_size=7, pooling="maxpool")])
    assert torch.equal(even.logits_NC, snap.logits_NC)
    assert even.trace.kv_byte == snap.trace.kv_byte


def test_layers_keep_the_budget_exactly_in_bytes_too(lvlm: LVLM) -> None:
    trace = lvlm.run(random_request(lvlm.config), [AdaKV(window_size=8, base_capacity=41, floor_alpha=0.3)]).trace
    assert trace.kv_entries == [41] * 4
    assert trace.kv_most_entries == [52] * 4
    assert trace.kv_byte == [41 * 2 * 2 * 16 * 4] * 4  # and not what the longest head would take
    assert trace.probe_entries == 4 * 4 * sum(range(393, 401))
    assert any(len({int((head >= 0).sum()) for head in index[0]}) > 1 for index in trace.kv_index)


def test_a_pyramid_gives_the_budgets_of_layers(lvlm: LVLM) -> None:
    request = random_request(lvlm.config)
    trace = lvlm.run(request, [AdaKV(window_size=8, base_capacity=40, pyramid=True, beta=4)]).trace
    assert trace.kv_entries == lvlm.run(request, [PyramidKV(8, 40, beta=4)]).trace.kv_entries == [64, 48, 32, 16]
    assert lvlm.run(request, [AdaKV(window_size=8, base_capacity=40, beta=4)]).trace.kv_entries == [40] * 4


@pytest.mark.parametrize(("length", "kept"), [(19, 19), (20, 20), (60, 20)])
def test_a_prompt_below_the_capacity_is_left_alone(length: int, kept: int) -> None:
    at = layer(length)
    entries = AdaKV(window_size=5, base_capacity=20).compress_cache(at)
    assert sum(map(len, places(entries))) == 2 * kept
    assert (entries is at.entries) == (length < 20)


def test_decoding_reads_no_padding_and_goes_on_at_the_true_length(lvlm: LVLM) -> None:
    technique = AdaKV(window_size=8, base_capacity=40, floor_alpha=0.0)
    request = random_request(lvlm.config, max_new_tokens=8)
    with torch.inference_mode():
        run = lvlm.begin(request, [technique])
        cache = lvlm.prefill(lvlm.prepare(run), run).cache
    assert (cache.next_position == 400).all()
    uneven = [layer for layer, store in enumerate(cache.stores) if store.length > 40]
    assert uneven
    # Drafts that are rolled back leave no trace in heads of different length.
    plain = lvlm.run(request, [technique])
    draft = LVLM.random(seed=1, device=lvlm.device)
    drafted = lvlm.run(request, [technique, SpeculativeSampling(gamma=3, draft=draft)])
    assert torch.equal(drafted.tokens_N, plain.tokens_N)


def test_entries_that_another_technique_evicted_before_are_refused() -> None:
    at = layer(50)
    fewer = at.entries.keep(torch.arange(40).expand(1, 2, 40))
    with pytest.raises(Refusal, match="50 columns for 40 entries; put AdaKV before"):
        AdaKV(window_size=8, base_capacity=20).compress_cache(replace(at, entries=fewer))


def test_arguments_out_of_range_are_refused() -> None:
    for error, match, arguments in (
        (ValueError, r"floor_alpha must lie in \[0, 1\], got 1.5", {"floor_alpha": 1.5}),
        (ValueError, "beta must be at least 1, got 0", {"beta": 0}),
        (ValueError, "window_size must be at least 1, got 0", {"window_size": 0}),
        (Refusal, "base_capacity must exceed window_size 32, got 32", {"base_capacity": 32}),
    ):
        with pytest.raises(error, match=match):
            AdaKV(**arguments)  # type: ignore[arg-type]
